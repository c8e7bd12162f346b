//! The user's own text with names replaced at their source positions. Nothing else of the text changes.

use std::sync::Arc;

use crate::shard_map::ShardGroupId;

/// A statement's text and the places where a shard's names go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spliced {
    text: Arc<str>,
    splices: Arc<[Splice]>,
}

/// Replaces `len` bytes at byte `at`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splice {
    pub at: u32,
    pub len: u32,
    pub with: With,
}

/// What is put in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum With {
    /// The shard schema of the named schema, quoted where needed, and a dot: `public` gives `public_102010.`.
    ShardSchema(Arc<str>),
    /// Always the same text.
    Fixed(Arc<str>),
}

impl Spliced {
    /// `splices` must not overlap; they are sorted here. Offsets must lie on character boundaries of `text`.
    pub fn new(text: impl Into<Arc<str>>, mut splices: Vec<Splice>) -> Self {
        let text = text.into();
        splices.sort_by_key(|s| s.at);
        debug_assert!(splices.windows(2).all(|w| w[0].at + w[0].len <= w[1].at));
        Self { text, splices: splices.into() }
    }

    /// Text that goes out as it is.
    pub fn verbatim(text: impl Into<Arc<str>>) -> Self {
        Self::new(text, Vec::new())
    }

    pub fn text(&self) -> &Arc<str> {
        &self.text
    }

    pub fn splices(&self) -> &[Splice] {
        &self.splices
    }

    /// Was a schema that is no shard's put in front of this relation's name? `relation`: as Postgres's messages have it, `schema.name`
    /// without quotes.
    pub fn puts_schema_before(&self, relation: &str) -> bool {
        self.splices.iter().any(|splice| match &splice.with {
            With::Fixed(schema) => match schema.strip_prefix('"').and_then(|rest| rest.strip_suffix("\".")) {
                Some(quoted) => relation.starts_with(&format!("{}.", quoted.replace("\"\"", "\""))),
                None => relation.starts_with(&**schema),
            },
            With::ShardSchema(_) => false,
        })
    }

    /// This text, `between`, and the other text.
    pub fn followed_by(&self, between: &str, other: &Spliced) -> Self {
        let shift = (self.text.len() + between.len()) as u32;
        let others = other.splices.iter().map(|s| Splice { at: s.at + shift, ..s.clone() });
        let splices = self.splices.iter().cloned().chain(others).collect();
        Self::new(format!("{}{between}{}", self.text, other.text), splices)
    }

    /// Does the text differ from shard to shard?
    pub fn depends_on_shard(&self) -> bool {
        self.splices.iter().any(|s| matches!(s.with, With::ShardSchema(_)))
    }

    /// The statement for one shard group; `None` where no shard is meant (then no shard schema may be spliced).
    pub fn render(&self, group: Option<ShardGroupId>) -> String {
        let mut out = String::with_capacity(self.text.len() + 24 * self.splices.len());
        self.render_into(group, &mut out);
        out
    }

    pub fn render_into(&self, group: Option<ShardGroupId>, out: &mut String) {
        let mut done = 0;
        for splice in self.splices.iter() {
            out.push_str(&self.text[done..splice.at as usize]);
            match &splice.with {
                With::Fixed(text) => out.push_str(text),
                With::ShardSchema(schema) => {
                    let group = group.expect("a statement with shard schemas is rendered for a shard group");
                    push_shard_schema(out, schema, group);
                }
            }
            done = (splice.at + splice.len) as usize;
        }
        out.push_str(&self.text[done..]);
    }

    /// Maps a character position (1-based, as in ErrorResponse field `P`) of the rendered text back to the user's.
    pub fn original_position(&self, group: Option<ShardGroupId>, position: usize) -> usize {
        let mut shift: isize = 0;
        let mut name = String::new();
        for splice in self.splices.iter() {
            name.clear();
            match (&splice.with, group) {
                (With::Fixed(text), _) => name.push_str(text),
                (With::ShardSchema(schema), Some(group)) => push_shard_schema(&mut name, schema, group),
                (With::ShardSchema(_), None) => {}
            }
            let start_chars = self.text[..splice.at as usize].chars().count() as isize;
            let removed = self.text[splice.at as usize..(splice.at + splice.len) as usize].chars().count() as isize;
            let added = name.chars().count() as isize;
            let rendered_start = start_chars + shift + 1;
            if (position as isize) < rendered_start + added {
                if (position as isize) >= rendered_start {
                    return (start_chars + 1) as usize;
                }
                break;
            }
            shift += added - removed;
        }
        (position as isize - shift).max(1) as usize
    }
}

/// Appends `<schema>_<group>.`, quoted when Postgres would fold or misread it.
pub fn push_shard_schema(out: &mut String, schema: &str, group: ShardGroupId) {
    use std::fmt::Write;
    let plain =
        schema.bytes().enumerate().all(|(i, b)| b.is_ascii_lowercase() || b == b'_' || (i > 0 && b.is_ascii_digit()));
    let result = if plain {
        write!(out, "{schema}_{group}.")
    } else {
        write!(out, "\"{}_{group}\".", schema.replace('"', "\"\""))
    };
    result.expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spliced() -> Spliced {
        let at = "SELECT é FROM ".len() as u32;
        Spliced::new(
            "SELECT é FROM orders WHERE x",
            vec![Splice { at, len: 0, with: With::ShardSchema("public".into()) }],
        )
    }

    #[test]
    fn a_shard_schema_goes_in_front_of_the_name_and_nothing_else_changes() {
        assert_eq!(spliced().render(Some(ShardGroupId(102010))), "SELECT é FROM public_102010.orders WHERE x");
    }

    #[test]
    fn an_error_position_is_given_in_the_users_text() {
        let group = Some(ShardGroupId(102010));
        let rendered = spliced().render(group);
        let at = rendered.chars().position(|c| c == 'x').unwrap() + 1;
        let original = spliced().text().chars().position(|c| c == 'x').unwrap() + 1;
        assert_eq!(spliced().original_position(group, at), original);
        assert_eq!(spliced().original_position(group, 8), 8);
    }

    #[test]
    fn a_relation_is_known_by_the_schema_that_was_put_before_it() {
        let fixed = |schema: &str| Splice { at: 14, len: 0, with: With::Fixed(schema.into()) };
        let plain = Spliced::new("SELECT * FROM words", vec![fixed("public.")]);
        let quoted = Spliced::new("SELECT * FROM words", vec![fixed("\"Of \"\"words\"\"\".")]);
        assert!(plain.puts_schema_before("public.words") && !plain.puts_schema_before("words"));
        assert!(quoted.puts_schema_before("Of \"words\".words") && !quoted.puts_schema_before("public.words"));
        assert!(!spliced().puts_schema_before("public.orders"), "a shard's");
    }

    #[test]
    fn an_upper_case_schema_is_quoted() {
        let mut out = String::new();
        push_shard_schema(&mut out, "My\"S", ShardGroupId(7));
        assert_eq!(out, "\"My\"\"S_7\".");
    }
}
