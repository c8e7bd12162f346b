//! The scale-out story.

mod data;

use crate::error::Result;

#[derive(Debug, clap::Args)]
pub struct Demo {}

impl Demo {
    pub fn run(self) -> Result<()> {
        Ok(())
    }
}
