//! Does once what an earlier version has left out on nodes: rows of `tenantry.mend`, which an upgrade of the catalog puts there.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::operations::schema_privileges;
use crate::tally::Recurring;

/// Until there is none, or `stop`.
pub async fn run(catalog: &Catalog, stop: CancellationToken) {
    let mended = async {
        let mut trouble = Recurring::default();
        loop {
            match schema_privileges::mend(catalog).await {
                Ok(true) => return,
                Ok(false) => trouble.works(NOT_MENDED),
                Err(error) => trouble.failed(&error, NOT_MENDED),
            }
            tokio::time::sleep(EVERY).await;
        }
    };
    let _ = stop.run_until_cancelled(mended).await;
}

const NOT_MENDED: &str = "could not give roles their privileges in the schemas of shards";
const EVERY: Duration = Duration::from_secs(5);
