//! `$(NAME)` references in commands, arguments and environment values.

/// Replaces `$(NAME)` by the variable's value. `$$` stands for one `$`, and a
/// reference to an unknown variable stays as it is, as in Kubernetes.
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find('$') {
        out.push_str(&rest[..position]);
        rest = &rest[position + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match lookup(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// Looks a variable up in a list where later entries win.
pub fn lookup<'a>(variables: &'a [(String, String)], name: &str) -> Option<&'a str> {
    variables
        .iter()
        .rev()
        .find(|(variable, _)| variable == name)
        .map(|(_, value)| value.as_str())
}

/// Sets a variable, replacing an earlier value.
pub fn set(variables: &mut Vec<(String, String)>, name: &str, value: String) {
    match variables.iter_mut().find(|(variable, _)| variable == name) {
        Some(entry) => entry.1 = value,
        None => variables.push((name.to_owned(), value)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn references_are_replaced_as_kubernetes_does() {
        let variables = vec![
            ("A".to_owned(), "1".to_owned()),
            ("B".to_owned(), "$(A)".to_owned()),
        ];
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(B)", "x1y$(A)"),
            ("$$(A)", "$(A)"),
            ("$(MISSING)", "$(MISSING)"),
            ("$(A", "$(A"),
            ("$", "$"),
            ("$A $$ é", "$A $ é"),
        ] {
            assert_eq!(
                expand(text, |name| lookup(&variables, name)),
                expected,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn text_without_dollar_is_unchanged(text in "[^$]*") {
            prop_assert_eq!(expand(&text, |_| Some("x")), text);
        }

        #[test]
        fn never_panics(text in ".*") {
            expand(&text, |_| None);
        }
    }
}
