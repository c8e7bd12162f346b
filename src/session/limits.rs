//! What one client may ask of this process.

use crate::executor::ClientLimits;

#[derive(Debug, Clone, Default)]
pub struct Limits {
    pub client: ClientLimits,
}
