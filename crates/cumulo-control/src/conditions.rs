//! Conditions that keep their transition times.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// The longest message that the API allows.
const LONGEST_MESSAGE: usize = 32_768;

/// What a condition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Saying {
    pub(crate) status: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Saying {
    pub(crate) fn yes(reason: &str, message: impl Into<String>) -> Self {
        Self {
            status: true,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    pub(crate) fn no(reason: &str, message: impl Into<String>) -> Self {
        Self {
            status: false,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// Sets a condition; its transition time changes only if its status does.
pub(crate) fn set(
    conditions: &mut Vec<Condition>,
    type_: &str,
    saying: Saying,
    generation: Option<i64>,
    now: Timestamp,
) {
    let mut message = saying.message;
    if message.len() > LONGEST_MESSAGE {
        let mut end = LONGEST_MESSAGE;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
    }
    let status = if saying.status { "True" } else { "False" };
    let known = conditions.iter_mut().find(|known| known.type_ == type_);
    let since = match &known {
        Some(known) if known.status == status => known.last_transition_time.clone(),
        _ => Time(whole_second(now)),
    };
    let condition = Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason_word(&saying.reason),
        message,
        observed_generation: generation,
        last_transition_time: since,
    };
    match known {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}

/// Removes a condition.
pub(crate) fn clear(conditions: &mut Vec<Condition>, type_: &str) {
    conditions.retain(|condition| condition.type_ != type_);
}

/// Sets `Ready`, and `Degraded` beside it where the object will not get there by
/// itself: nothing goes on until somebody changes something.
pub(crate) fn set_ready(
    conditions: &mut Vec<Condition>,
    saying: Saying,
    stuck: bool,
    generation: Option<i64>,
    now: Timestamp,
) {
    let degraded = stuck.then(|| Saying::yes(&saying.reason, saying.message.clone()));
    set(conditions, "Ready", saying, generation, now);
    match degraded {
        Some(degraded) => set(conditions, "Degraded", degraded, generation, now),
        None => clear(conditions, "Degraded"),
    }
}

/// The condition of a type.
pub(crate) fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Kubernetes stores whole seconds: what is compared later must be one.
pub(crate) fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// A reason must be a CamelCase word.
pub(crate) fn reason_word(text: &str) -> String {
    let word: String = text
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
        .take(128)
        .collect();
    if word.starts_with(|c: char| c.is_ascii_alphabetic()) {
        word
    } else {
        "Failed".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_is_kept_while_the_status_is() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut conditions = Vec::new();
        set(
            &mut conditions,
            "Ready",
            Saying::no("Building", "…"),
            Some(1),
            at(10),
        );
        set(
            &mut conditions,
            "Ready",
            Saying::no("QueryInvalid", "line 3"),
            Some(2),
            at(20),
        );
        assert_eq!(conditions[0].last_transition_time.0, at(10));
        assert_eq!(conditions[0].reason, "QueryInvalid");
        set(
            &mut conditions,
            "Ready",
            Saying::yes("Built", ""),
            Some(2),
            at(30),
        );
        assert_eq!(conditions[0].last_transition_time.0, at(30));
        assert_eq!(conditions.len(), 1);
        assert_eq!(reason_word("exit code 3"), "exitcode3");
        assert_eq!(reason_word("3"), "Failed");
    }
}
