//! What a server reports of its settings (ParameterStatus), and which of it has changed under the statements of its user.

/// By the names that Postgres gives them.
#[derive(Debug, Default)]
pub(super) struct Reported {
    values: Vec<(String, String)>,
    /// Those that have changed since `take_changed`.
    changed: Vec<Change>,
}

/// A setting that has another value than before, or had meanwhile.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    pub name: String,
    pub before: String,
}

impl Reported {
    pub fn values(&self) -> &[(String, String)] {
        &self.values
    }

    pub fn note(&mut self, name: &str, value: &str) {
        let Some((_, old)) = self.values.iter_mut().find(|(known, _)| known == name) else {
            self.values.push((name.to_owned(), value.to_owned()));
            return;
        };
        let before = std::mem::replace(old, value.to_owned());
        if !self.changed.iter().any(|change| change.name == name) {
            self.changed.push(Change { name: name.to_owned(), before });
        }
    }

    /// Since this was asked last; some may have the value of then again.
    pub fn changed(&self) -> &[Change] {
        &self.changed
    }

    pub fn expect(&mut self, is_meant: impl Fn(&str) -> bool) {
        self.changed.retain(|change| !is_meant(&change.name));
    }

    pub fn take_changed(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_known_by_what_was_before_all_of_it() {
        let mut reported = Reported::default();
        for value in ["UTC", "Asia/Tokyo", "Europe/Berlin"] {
            reported.note("TimeZone", value);
        }
        assert_eq!(reported.values(), [("TimeZone".to_owned(), "Europe/Berlin".to_owned())]);
        assert_eq!(reported.take_changed(), [Change { name: "TimeZone".to_owned(), before: "UTC".to_owned() }]);
        assert!(reported.changed().is_empty());
    }
}
