//! MD5 password authentication, for roles whose stored password is still of that kind.
//!
//! ```text
//!   stored: "md5" + hex(md5(password + role))        answer: "md5" + hex(md5(stored's hex + salt))
//! ```
//!
//! Source: PostgreSQL manual, "Message Flow", AuthenticationMD5Password.

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

/// What pg_authid.rolpassword holds for an MD5 password.
pub fn stored(role: &str, password: &str) -> String {
    format!("md5{}", hex(&[password.as_bytes(), role.as_bytes()]))
}

/// The answer to AuthenticationMD5Password, from the stored form (with or without its "md5").
pub fn response(stored: &str, salt: [u8; 4]) -> String {
    let digest = stored.strip_prefix("md5").unwrap_or(stored);
    format!("md5{}", hex(&[digest.as_bytes(), &salt]))
}

/// Is `answer` what a client that knows the password sends? Compared in constant time.
pub fn is_right(stored: &str, salt: [u8; 4], answer: &[u8]) -> bool {
    response(stored, salt).as_bytes().ct_eq(answer).into()
}

fn hex(parts: &[&[u8]]) -> String {
    let mut digest = Md5::new();
    for part in parts {
        digest.update(part);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_is_that_of_postgres() {
        // CREATE ROLE app PASSWORD 'secret' with password_encryption = md5
        assert_eq!(stored("app", "secret"), "md56a422f785c9e20873908ce25d1736ae2");
    }

    #[test]
    fn only_the_right_answer_to_the_salt_is_accepted() {
        let stored = stored("app", "secret");
        let answer = response(&stored, [1, 2, 3, 4]);
        assert!(is_right(&stored, [1, 2, 3, 4], answer.as_bytes()));
        assert!(!is_right(&stored, [1, 2, 3, 5], answer.as_bytes()));
        assert!(!is_right(&stored, [1, 2, 3, 4], b""));
    }
}
