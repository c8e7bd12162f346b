//! What a server reports of its settings (ParameterStatus), and which of it has changed under the statements of its user.

/// By the names that Postgres gives them.
#[derive(Debug, Default)]
pub(super) struct Reported {
    values: Vec<(String, String)>,
    /// What those were that have changed since `take_changed`.
    before: Vec<(String, String)>,
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
        let old = std::mem::replace(old, value.to_owned());
        if self.before.iter().all(|(known, _)| known != name) {
            self.before.push((name.to_owned(), old));
        }
    }

    /// As they were when this was asked last; some may have that value again.
    pub fn changed(&self) -> &[(String, String)] {
        &self.before
    }

    pub fn expect(&mut self, is_meant: impl Fn(&str) -> bool) {
        self.before.retain(|(name, _)| !is_meant(name));
    }

    pub fn take_changed(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.before)
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
        assert_eq!(reported.take_changed(), [("TimeZone".to_owned(), "UTC".to_owned())]);
        assert!(reported.changed().is_empty());
    }
}
