//! Acting as somebody else: `kubectl --as`, for those who have the verb
//! `impersonate` on who is meant.

use std::collections::BTreeMap;

use http::HeaderMap;

use crate::auth::{Attributes, UserInfo};
use crate::engine::Engine;
use crate::status::ApiError;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// Who the headers say that the user wants to be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    name: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl Wanted {
    /// None when the headers say nothing of it.
    fn read(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let mut wanted = Self::default();
        let mut any = false;
        for (name, value) in headers {
            let name = name.as_str();
            if !name.starts_with("impersonate-") {
                continue;
            }
            any = true;
            let value = value.to_str().map_err(|_| {
                ApiError::bad_request(format!("the header {name} is not readable text"))
            })?;
            match name {
                USER => value.clone_into(&mut wanted.name),
                UID => value.clone_into(&mut wanted.uid),
                GROUP => wanted.groups.push(value.to_owned()),
                _ => match name.strip_prefix(EXTRA) {
                    Some(key) => wanted
                        .extra
                        .entry(key.to_owned())
                        .or_default()
                        .push(value.to_owned()),
                    None => {
                        return Err(ApiError::bad_request(format!(
                            "the header {name} is not known"
                        )));
                    }
                },
            }
        }
        if any && wanted.name.is_empty() {
            return Err(ApiError::bad_request(
                "groups, a uid or extras are impersonated without a user",
            ));
        }
        Ok(any.then_some(wanted))
    }

    /// What has to be allowed for it.
    fn asked(&self) -> Vec<Attributes> {
        let on = |group: &str, resource: &str, name: &str| Attributes {
            verb: "impersonate".to_owned(),
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        let mut all = vec![match account(&self.name) {
            Some((namespace, name)) => Attributes {
                namespace: namespace.to_owned(),
                ..on("", "serviceaccounts", name)
            },
            None => on("", "users", &self.name),
        }];
        all.extend(self.groups.iter().map(|group| on("", "groups", group)));
        if !self.uid.is_empty() {
            all.push(on("authentication.k8s.io", "uids", &self.uid));
        }
        for (key, values) in &self.extra {
            all.extend(values.iter().map(|value| Attributes {
                subresource: key.clone(),
                ..on("authentication.k8s.io", "userextras", value)
            }));
        }
        all
    }

    fn user(self) -> UserInfo {
        let mut groups = self.groups;
        if groups.is_empty()
            && let Some((namespace, _)) = account(&self.name)
        {
            groups.push("system:serviceaccounts".to_owned());
            groups.push(format!("system:serviceaccounts:{namespace}"));
        }
        if !groups.iter().any(|group| group == "system:authenticated") {
            groups.push("system:authenticated".to_owned());
        }
        UserInfo {
            name: self.name,
            uid: self.uid,
            groups,
            extra: self.extra,
        }
    }
}

/// Namespace and name of the account that a user name is of.
fn account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

/// Who a request is to be answered as, when it is not its sender.
pub(super) async fn impersonate(
    engine: &Engine,
    user: &UserInfo,
    headers: &HeaderMap,
) -> Result<Option<UserInfo>, ApiError> {
    let Some(wanted) = Wanted::read(headers)? else {
        return Ok(None);
    };
    for attributes in wanted.asked() {
        engine.authorize(user, &attributes).await?;
    }
    Ok(Some(wanted.user()))
}
