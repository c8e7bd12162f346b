//! How much room there is on a server's disk.
//!
//! SQL does not tell; where the control user may run programs on the server, its own `df` does. Managed servers let nobody:
//! there nothing is known.

use tokio_postgres::Client;

/// Bytes that the disk of the data directory has free. `None` where the server has no `df`, or lets us run nothing. The client
/// must not be in a transaction.
pub async fn free(client: &Client) -> Option<i64> {
    // Who may not would leave an error in the server's log each time.
    let may = "SELECT pg_catalog.pg_has_role('pg_execute_server_program', 'USAGE') \
               OR pg_catalog.current_setting('is_superuser')::pg_catalog.bool";
    if !client.query_one(may, &[]).await.ok()?.try_get::<_, bool>(0).ok()? {
        return None;
    }
    let asked = ask(client).await;
    client.batch_execute("ROLLBACK").await.ok()?;
    asked
        .inspect_err(|error| tracing::debug!(%error, "a server's disk cannot be asked how much room it has"))
        .ok()
        .flatten()
}

async fn ask(client: &Client) -> Result<Option<i64>, tokio_postgres::Error> {
    let ask = "BEGIN READ WRITE; CREATE TEMP TABLE tenantry_disk (line pg_catalog.text) ON COMMIT DROP; \
               COPY pg_temp.tenantry_disk FROM PROGRAM 'LC_ALL=C df -Pk .'";
    client.batch_execute(ask).await?;
    // Source of the columns: POSIX, df -P.
    let rows = client.query("SELECT line FROM pg_temp.tenantry_disk", &[]).await?;
    let line: Option<String> = rows.last().map(|row| row.try_get(0)).transpose()?;
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(3)?.parse::<i64>().ok());
    Ok(kilobytes.and_then(|kilobytes| kilobytes.checked_mul(1024)))
}

/// As people read it.
pub fn megabytes(bytes: i64) -> String {
    format!("{} MB", bytes >> 20)
}

/// Bytes of a disk that whatever is to be written there leaves to the server itself.
pub const ROOM_TO_SPARE: i64 = 256 << 20;
