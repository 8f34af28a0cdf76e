//! Filling in what a client left out.

use serde_json::{Map, Number, Value, json};

use super::node::{Cursor, Kind};
use super::{Schema, builtin};

pub(super) fn default(schema: &Schema, value: &mut Value) {
    let walk = Walk {
        builtin: schema.builtin,
    };
    walk.value(schema.cursor(), value, false);
}

struct Walk {
    builtin: bool,
}

impl Walk {
    fn value(&self, cursor: Cursor<'_>, value: &mut Value, in_status: bool) {
        match value {
            Value::Object(object) => self.object(cursor, object, in_status),
            Value::Array(items) => {
                let Some(element) = cursor.items() else {
                    return;
                };
                for item in items {
                    if item.is_null()
                        && !element.node().nullable
                        && let Some(default) = element.default_value()
                    {
                        *item = default.clone();
                    }
                    self.value(element, item, in_status);
                }
            }
            Value::Number(number) if cursor.node().kind == Kind::Quantity => {
                *value = quantity(number);
            }
            _ => {}
        }
    }

    fn object(&self, cursor: Cursor<'_>, object: &mut Map<String, Value>, in_status: bool) {
        let node = cursor.node();
        if node.kind == Kind::Any && node.properties.is_empty() && node.additional.is_none() {
            return;
        }
        object.retain(|key, value| {
            !(value.is_null()
                && cursor.under(key).is_some_and(|child| {
                    !child.node().nullable && (self.builtin || child.node().kind != Kind::Any)
                }))
        });
        for (name, edge) in &node.properties {
            if object.contains_key(name.as_ref()) {
                continue;
            }
            if let Some(default) = &edge.default {
                object.insert(name.to_string(), (**default).clone());
            } else if in_status && self.builtin && node.required.contains(name) {
                // Go writes the zero value of a field that it does not omit; that of a
                // time is none.
                let below = cursor.follow(edge);
                let zero = match below.node().kind {
                    Kind::String if below.format() == Some("date-time") => continue,
                    Kind::String => json!(""),
                    Kind::Integer | Kind::Number => json!(0),
                    Kind::Boolean => json!(false),
                    _ => continue,
                };
                object.insert(name.to_string(), zero);
            }
        }
        if let Some(hook) = builtin::hook(cursor.arena, cursor.edge.node) {
            hook(object);
        }
        for (key, child) in object.iter_mut() {
            if let Some(below) = cursor.under(key) {
                self.value(below, child, in_status || key == "status");
            }
        }
    }
}

/// A quantity given as a number, as the string that Kubernetes keeps.
fn quantity(number: &Number) -> Value {
    if number.is_f64()
        && let Some(float) = number.as_f64()
    {
        if float.fract() == 0.0 && float.abs() < 1e15 {
            return json!(format!("{float:.0}"));
        }
        // Kubernetes keeps no decimal point: 0.5 becomes 500m.
        let milli = float * 1000.0;
        if (milli - milli.round()).abs() < 1e-6 && milli.abs() < 1e15 {
            return json!(format!("{:.0}m", milli.round()));
        }
    }
    json!(number.to_string())
}
