//! CertificateSigningRequests: who asks is noted, what is asked for does not
//! change, and only who may approve says what was decided.

use serde_json::{Value, json};

use super::{object_at, put};
use crate::auth::UserInfo;
use crate::status::Cause;

/// The API group.
pub(super) const GROUP: &str = "certificates.k8s.io";
/// What only `approval` may say.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];

/// Writes down who asks.
pub(super) fn sign(object: &mut Value, user: Option<&UserInfo>) {
    let Some(user) = user else {
        return;
    };
    let spec = object_at(object, &["spec"]);
    spec.insert("username".into(), json!(user.name));
    spec.insert("groups".into(), json!(user.groups));
    for (field, value, empty) in [
        ("uid", json!(user.uid), user.uid.is_empty()),
        ("extra", json!(user.extra), user.extra.is_empty()),
    ] {
        if empty {
            spec.remove(field);
        } else {
            spec.insert(field.into(), value);
        }
    }
}

/// The status that a write through `status` or `approval` makes: the latter says
/// what it likes but for the certificate, the former cannot decide.
pub(super) fn status(new: &Value, old: &Value, part: &str) -> Value {
    let mut status = new.clone();
    object_at(&mut status, &[]);
    if part == "approval" {
        put(&mut status, "certificate", old.get("certificate").cloned());
        return status;
    }
    let conditions = |status: &Value| -> Vec<Value> {
        status["conditions"].as_array().cloned().unwrap_or_default()
    };
    let decided: Vec<Value> = conditions(old).into_iter().filter(is_decision).collect();
    let mut all: Vec<Value> = conditions(new)
        .into_iter()
        .filter(|condition| !is_decision(condition) || decided.contains(condition))
        .collect();
    for decision in decided {
        if !all.contains(&decision) {
            all.push(decision);
        }
    }
    let all = (!all.is_empty()).then_some(Value::Array(all));
    put(&mut status, "conditions", all);
    status
}

fn is_decision(condition: &Value) -> bool {
    condition["type"]
        .as_str()
        .is_some_and(|kind| DECISIONS.contains(&kind))
}

/// What is wrong with a request.
pub(super) fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &object["spec"];
    for field in ["signerName", "request"] {
        if spec[field].as_str().unwrap_or_default().is_empty() {
            causes.push(Cause::required(format!("spec.{field}"), ""));
        }
    }
    let signer = spec["signerName"].as_str().unwrap_or_default();
    if !signer.is_empty() && !signer.contains('/') {
        causes.push(Cause::invalid(
            "spec.signerName",
            &spec["signerName"],
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        ));
    }
    if spec["usages"].as_array().is_none_or(Vec::is_empty) {
        causes.push(Cause::required("spec.usages", ""));
    }
    if let Some(seconds) = spec["expirationSeconds"].as_i64()
        && seconds < 600
    {
        causes.push(Cause::invalid(
            "spec.expirationSeconds",
            &spec["expirationSeconds"],
            "may not specify a duration less than 600 seconds (10 minutes)",
        ));
    }
    let has = |kind: &str| {
        object["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["type"] == kind)
    };
    if DECISIONS.iter().all(|kind| has(kind)) {
        causes.push(Cause::invalid(
            "status.conditions",
            &json!("Denied"),
            "Approved and Denied conditions are mutually exclusive",
        ));
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_says_its_own() {
        let approved = json!({"type": "Approved"});
        let failed = json!({"type": "Failed"});
        let new = json!({"certificate": "x", "conditions": [failed, approved]});
        let old = json!({"conditions": []});
        let decided = status(&new, &old, "approval");
        assert_eq!(decided, json!({"conditions": [failed, approved]}));
        assert_eq!(
            status(&new, &old, "status"),
            json!({"certificate": "x", "conditions": [failed]})
        );
        let forgetful = json!({"certificate": "x"});
        assert_eq!(
            status(&forgetful, &decided, "status"),
            json!({"certificate": "x", "conditions": [approved]})
        );
    }
}
