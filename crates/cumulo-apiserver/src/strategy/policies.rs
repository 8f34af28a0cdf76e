//! `admissionregistration.k8s.io`: policies have to compile, and webhooks are
//! refused, as nobody would call them.

use serde_json::Value;

use crate::policy::Policy;
use crate::status::Cause;

/// The API group.
pub(super) const GROUP: &str = "admissionregistration.k8s.io";

pub(super) fn validate(plural: &str, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let spec = &object["spec"];
    match plural {
        "validatingadmissionpolicies" => {
            if old.is_some_and(|old| old["spec"] == *spec) {
                return Vec::new();
            }
            let mut causes = Policy::compile(object).err().unwrap_or_default();
            let validations = spec["validations"].as_array().map_or(0, Vec::len);
            let annotations = spec["auditAnnotations"].as_array().map_or(0, Vec::len);
            if validations + annotations == 0 {
                causes.push(Cause::required(
                    "spec.validations",
                    "validations or auditAnnotations must contain at least one item",
                ));
            }
            if spec["matchConstraints"].is_null() {
                causes.push(Cause::required("spec.matchConstraints", ""));
            }
            causes
        }
        "validatingadmissionpolicybindings" => {
            let mut causes = Vec::new();
            if spec["policyName"].as_str().unwrap_or_default().is_empty() {
                causes.push(Cause::required("spec.policyName", ""));
            }
            if spec["validationActions"]
                .as_array()
                .is_none_or(Vec::is_empty)
            {
                causes.push(Cause::required("spec.validationActions", ""));
            }
            causes
        }
        _ => {
            let webhooks = object["webhooks"].as_array().map_or(0, Vec::len);
            let refused =
                webhooks > 0 && old.is_none_or(|old| old["webhooks"] != object["webhooks"]);
            let why = "this server calls no admission webhooks, so it would look enforced and not be: use a ValidatingAdmissionPolicy";
            if refused {
                vec![Cause::forbidden("webhooks", why)]
            } else {
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_would_not_be_enforced_is_refused() {
        let hook = json!({"webhooks": [{"name": "a.b.c"}]});
        let causes = validate("mutatingwebhookconfigurations", &hook, None);
        assert_eq!(causes[0].field, "webhooks");
        assert!(validate("validatingwebhookconfigurations", &json!({}), None).is_empty());
        let policy =
            json!({"spec": {"matchConstraints": {}, "validations": [{"expression": "objetc.x"}]}});
        let causes = validate("validatingadmissionpolicies", &policy, None);
        assert_eq!(causes[0].field, "spec.validations[0].expression");
        assert!(
            causes[0]
                .message
                .contains("undeclared reference to 'objetc'"),
            "{causes:?}"
        );
    }
}
