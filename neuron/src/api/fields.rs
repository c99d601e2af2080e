//! Fields of a JSON object by name and type. Absent and null are the same; what is neither and of
//! another type is an error that names the field.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::error::ApiError;

/// The request's fields.
#[derive(Clone, Copy)]
pub(super) struct Fields<'r>(pub(super) &'r Map<String, Value>);

impl<'r> Fields<'r> {
    pub(super) fn get(self, name: &str) -> Option<&'r Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(self, name: &str) -> Result<Option<&'r str>, ApiError> {
        self.typed(name, "a string", Value::as_str)
    }

    pub(super) fn flag(self, name: &str) -> Result<bool, ApiError> {
        Ok(self.typed(name, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    pub(super) fn array(self, name: &str) -> Result<Option<&'r [Value]>, ApiError> {
        self.typed(name, "an array", |value| value.as_array().map(Vec::as_slice))
    }

    pub(super) fn object(self, name: &str) -> Result<Option<&'r Map<String, Value>>, ApiError> {
        self.typed(name, "an object", Value::as_object)
    }

    /// A number in `range`.
    pub(super) fn number(self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let number = self.typed(name, "a number", Value::as_f64)?;
        match number.filter(|number| !range.contains(number)) {
            None => Ok(number),
            Some(bad) => Err(out_of_range(
                name,
                &format!("{bad} is not between {} and {}", range.start(), range.end()),
            )),
        }
    }

    /// A whole number in `range`.
    pub(super) fn whole(self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let number = self.typed(name, "a whole number", |value| {
            // 5.0 is a whole number too: some clients know no other.
            value.as_i64().or_else(|| value.as_f64().filter(|x| x.fract() == 0.0).and_then(to_i64))
        })?;
        match number.filter(|number| !range.contains(number)) {
            None => Ok(number),
            Some(bad) if *range.end() == i64::MAX => {
                Err(out_of_range(name, &format!("{bad} is less than {}", range.start())))
            }
            Some(bad) => Err(out_of_range(
                name,
                &format!("{bad} is not between {} and {}", range.start(), range.end()),
            )),
        }
    }

    fn typed<T>(
        self,
        name: &str,
        expected: &str,
        convert: impl FnOnce(&'r Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| wrong_type(name, expected, value))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "checked to lie within what both types hold exactly")]
fn to_i64(x: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    (-EXACT..=EXACT).contains(&x).then_some(x as i64)
}

/// 400: `name` is of another type.
pub(super) fn wrong_type(name: &str, expected: &str, got: &Value) -> ApiError {
    let kind = match got {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    ApiError::invalid(name, "invalid_type", format!("{name} is {kind}, where {expected} is expected"))
}

/// 400: a required field is not there.
pub(super) fn missing(name: &str) -> ApiError {
    ApiError::invalid(name, "missing_required_parameter", format!("{name} is missing"))
}

fn out_of_range(name: &str, problem: &str) -> ApiError {
    ApiError::invalid(name, "invalid_value", format!("{name}: {problem}"))
}
