//! The program: everything is in the library, this names the allocator and the parts that the command line starts.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tenantry::cli::run(tenantry::app::run)
}
