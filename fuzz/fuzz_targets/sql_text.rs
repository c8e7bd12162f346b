//! The lexer, the fingerprint (skeleton) and the cut between statements, on any text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tenantry_fuzz::sql::lexer::{fold, lex, string_value};
use tenantry_fuzz::sql::{skeleton, statements};

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let tokens = lex(text, first % 2 == 0);
    if let Ok(tokens) = &tokens {
        assert!(tokens.windows(2).all(|pair| pair[0].end <= pair[1].start), "tokens overlap");
        for token in tokens {
            assert!(token.start < token.end && !token.text(text).is_empty());
            if token.is_identifier() {
                fold(text, token);
            }
            if token.is_string() {
                string_value(text, token);
            }
        }
        for statement in statements::split(text, tokens) {
            for token in statements::rebase(tokens, &statement) {
                assert!(token.start < token.end);
            }
        }
    }
    let Some(found) = skeleton::scan(text) else { return };
    for literal in found.literals() {
        assert!(literal.start < literal.end && text.get(literal.start as usize..literal.end as usize).is_some());
        skeleton::literal_value(text, literal);
    }
    // Both read one text: the literals of the fingerprint are those of the lexer.
    if let Ok(tokens) = lex(text, true) {
        let of_lexer: Vec<_> =
            tokens.iter().filter(|t| skeleton::is_literal(t.kind)).map(|t| (t.kind, t.start, t.end)).collect();
        let of_skeleton: Vec<_> = found.literals().iter().map(|l| (l.kind, l.start, l.end)).collect();
        assert_eq!(of_lexer, of_skeleton);
    }
});
