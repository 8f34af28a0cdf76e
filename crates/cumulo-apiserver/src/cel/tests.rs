use serde_json::{Value as Json, json};

use super::{EvaluateError, Expression, Scope, convert};

fn holds(source: &str, object: &Json) -> Result<bool, String> {
    let mut scope = Scope::default();
    scope.set("self", convert::plain(object));
    Expression::compile(source, &["self"])
        .map_err(|error| error.to_string())?
        .holds(&scope)
        .map_err(|error| error.to_string())
}

#[test]
fn rules_as_people_write_them() {
    let object = json!({
        "replicas": 3, "minReplicas": 1, "name": "a-b", "labels": {"app": "x"},
        "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}],
        "memory": "512Mi", "namespace": "n", "x-y": true, "ratio": 0.5,
    });
    for rule in [
        "self.minReplicas <= self.replicas",
        "self.ports.all(p, p.port > 0 && p.port < 65536)",
        "self.ports.exists_one(p, p.name == 'http')",
        "self.ports.map(p, p.port).sum() == 523",
        "self.ports.map(p, p.port).max() == 443 && [1, 2].min() == 1",
        "self.ports.map(p, p.name).isSorted()",
        "has(self.labels) && 'app' in self.labels && self.labels['app'] == 'x'",
        "!has(self.absent)",
        "self.name.matches('^[a-z-]+$') && self.name.find('[a-z]') == 'a'",
        "self.name.split('-').size() == 2 && self.name.upperAscii() == 'A-B'",
        "self.ports.map(p, p.name).indexOf('https') == 1",
        "isQuantity(self.memory) && !isQuantity('much')",
        "quantity(self.memory).isLessThan(quantity('1Gi'))",
        "quantity(self.memory).add(quantity('512Mi')).compareTo(quantity('1Gi')) == 0",
        "self.__namespace__ == 'n' && self.x__dash__y",
        "self.ratio < 1.0",
        "self.?absent.orValue('z') == 'z'",
        "type(self.replicas) == int",
        "timestamp('2020-01-01T00:00:00Z').getFullYear() == 2020",
        "duration('90s') < duration('2m')",
    ] {
        assert_eq!(holds(rule, &object), Ok(true), "{rule}");
    }
    assert_eq!(holds("self.replicas > 3", &object), Ok(false));
}

#[test]
fn what_is_wrong_is_said() {
    let object = json!({"replicas": 3});
    for (rule, sentence) in [
        ("self.absent > 1", "no such key: absent"),
        (
            "slef.replicas > 1",
            "compilation failed: undeclared reference to 'slef'",
        ),
        (
            "self.replicas.frob()",
            "compilation failed: undeclared reference to 'frob': this function is not known here",
        ),
        (
            "self.replicas > '1'",
            "no such overload: found no matching overload for '_>_' applied to '(int, string)'",
        ),
        ("self.replicas", "a bool is needed, and it is a int"),
        ("self.replicas / 0 == 1", "division by zero"),
    ] {
        assert_eq!(holds(rule, &object), Err(sentence.to_owned()), "{rule}");
    }
    let error = holds("self.(", &object).expect_err("it does not parse");
    assert!(error.starts_with("compilation failed: "), "{error}");
}

#[test]
fn costs_are_bounded() {
    let numbers: Vec<u32> = (0..3000).collect();
    let object = json!({"list": numbers, "text": "x".repeat(1 << 20)});
    let budget = EvaluateError::Budget.to_string();
    assert_eq!(holds("self.list.all(x, x >= 0)", &object), Ok(true));
    assert_eq!(
        holds(
            "self.list.all(x, self.list.all(y, self.list.all(z, x + y + z >= 0)))",
            &object
        ),
        Err(budget.clone())
    );
    assert_eq!(
        holds("self.text.replace('', self.text) == ''", &object),
        Err(budget)
    );
}

#[test]
fn every_declared_function_is_there() {
    // An environment that cannot be extended would leave these out.
    for rule in [
        "'a'.charAt(0) == 'a'",
        "[1].lastIndexOf(1) == 0",
        "isQuantity('1')",
    ] {
        assert_eq!(holds(rule, &json!({})), Ok(true), "{rule}");
    }
}
