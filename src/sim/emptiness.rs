//! What a vendor says of a field that is empty. Go programs leave such fields out, others say null; a
//! client that compares with what is not there finds that null equals null.

use serde_json::{Map, Value};

/// How a field that has nothing in it is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Emptiness {
    /// The field is not there.
    #[default]
    LeftOut,
    /// It is null.
    Null,
}

impl Emptiness {
    /// Tells the empty ones of these fields as it tells them.
    pub(super) fn tell(self, thing: &mut Map<String, Value>, fields: &[&str]) {
        for &field in fields {
            if thing.get(field).is_some_and(is_empty) {
                match self {
                    Self::LeftOut => thing.remove(field),
                    Self::Null => thing.insert(field.to_owned(), Value::Null),
                };
            }
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}
