//! SQLSTATEs by Postgres's condition names.
//!
//! Source: PostgreSQL manual, appendix "PostgreSQL Error Codes".

/// A five-character SQLSTATE.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// Takes five ASCII letters or digits.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let code: [u8; 5] = bytes.try_into().ok()?;
        code.iter().all(u8::is_ascii_alphanumeric).then_some(Self(code))
    }

    pub fn bytes(&self) -> &[u8; 5] {
        &self.0
    }

    /// The class: the first two characters, e.g. `08` connection, `23` integrity.
    pub fn class(&self) -> &str {
        std::str::from_utf8(&self.0[..2]).expect("SQLSTATEs are ASCII by construction")
    }
}

impl std::fmt::Display for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(std::str::from_utf8(&self.0).expect("SQLSTATEs are ASCII by construction"))
    }
}

impl std::fmt::Debug for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

macro_rules! sqlstates {
    ($($name:ident = $code:literal),* $(,)?) => {
        impl SqlState { $(pub const $name: SqlState = SqlState(*$code);)* }
    };
}

sqlstates! {
    SUCCESSFUL_COMPLETION = b"00000",
    WARNING = b"01000",
    CONNECTION_EXCEPTION = b"08000",
    UNABLE_TO_CONNECT = b"08001",
    CONNECTION_FAILURE = b"08006",
    TRANSACTION_RESOLUTION_UNKNOWN = b"08007",
    PROTOCOL_VIOLATION = b"08P01",
    FEATURE_NOT_SUPPORTED = b"0A000",
    CARDINALITY_VIOLATION = b"21000",
    NULL_VALUE_NOT_ALLOWED = b"22004",
    SEQUENCE_GENERATOR_LIMIT_EXCEEDED = b"2200H",
    INVALID_PARAMETER_VALUE = b"22023",
    CHARACTER_NOT_IN_REPERTOIRE = b"22021",
    INVALID_TEXT_REPRESENTATION = b"22P02",
    INVALID_BINARY_REPRESENTATION = b"22P03",
    BAD_COPY_FILE_FORMAT = b"22P04",
    NOT_NULL_VIOLATION = b"23502",
    GENERATED_ALWAYS = b"428C9",
    FOREIGN_KEY_VIOLATION = b"23503",
    UNIQUE_VIOLATION = b"23505",
    INVALID_CURSOR_STATE = b"24000",
    INVALID_TRANSACTION_STATE = b"25000",
    ACTIVE_SQL_TRANSACTION = b"25001",
    NO_ACTIVE_SQL_TRANSACTION = b"25P01",
    IN_FAILED_SQL_TRANSACTION = b"25P02",
    INVALID_SQL_STATEMENT_NAME = b"26000",
    INVALID_AUTHORIZATION_SPECIFICATION = b"28000",
    INVALID_PASSWORD = b"28P01",
    INVALID_CURSOR_NAME = b"34000",
    INVALID_CATALOG_NAME = b"3D000",
    INVALID_SCHEMA_NAME = b"3F000",
    SERIALIZATION_FAILURE = b"40001",
    STATEMENT_COMPLETION_UNKNOWN = b"40003",
    DEADLOCK_DETECTED = b"40P01",
    SYNTAX_ERROR = b"42601",
    INSUFFICIENT_PRIVILEGE = b"42501",
    UNDEFINED_COLUMN = b"42703",
    UNDEFINED_OBJECT = b"42704",
    DUPLICATE_OBJECT = b"42710",
    UNDEFINED_FUNCTION = b"42883",
    DATATYPE_MISMATCH = b"42804",
    WRONG_OBJECT_TYPE = b"42809",
    UNDEFINED_TABLE = b"42P01",
    DUPLICATE_PREPARED_STATEMENT = b"42P05",
    DUPLICATE_SCHEMA = b"42P06",
    DUPLICATE_TABLE = b"42P07",
    INVALID_TABLE_DEFINITION = b"42P16",
    INDETERMINATE_DATATYPE = b"42P18",
    INSUFFICIENT_RESOURCES = b"53000",
    DISK_FULL = b"53100",
    TOO_MANY_CONNECTIONS = b"53300",
    CONFIGURATION_LIMIT_EXCEEDED = b"53400",
    PROGRAM_LIMIT_EXCEEDED = b"54000",
    STATEMENT_TOO_COMPLEX = b"54001",
    OBJECT_NOT_IN_PREREQUISITE_STATE = b"55000",
    OBJECT_IN_USE = b"55006",
    LOCK_NOT_AVAILABLE = b"55P03",
    OPERATOR_INTERVENTION = b"57000",
    QUERY_CANCELED = b"57014",
    ADMIN_SHUTDOWN = b"57P01",
    CANNOT_CONNECT_NOW = b"57P03",
    IDLE_SESSION_TIMEOUT = b"57P05",
    IO_ERROR = b"58030",
    CONFIG_FILE_ERROR = b"F0000",
    INTERNAL_ERROR = b"XX000",
    DATA_CORRUPTED = b"XX001",
    OUT_OF_MEMORY = b"53200",
}
