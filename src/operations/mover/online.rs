//! From empty tables on the targets to copies that follow the source closely: the same whatever is moved while clients write.
//!
//! ```text
//!   target_created ── rows ──> copied ── keys, indexes ── changes, until few are missing ── foreign keys ── sums
//!                     copy.rs            └ Making         stream.rs, marker.rs              └ Making        verify.rs
//! ```

use std::future::Future;

use super::copy::{self, Copied};
use super::definition::Definition;
use super::guard::Guard;
use super::marker::Marker;
use super::pieces::Routes;
use super::session::Session;
use super::snapshot::SourceTable;
use super::state::Move;
use super::stream::Apply;
use super::target::{self, Target};
use super::throttle::Pace;
use super::{MoverEnvironment, StopPoint, row_index, verify};
use crate::backend::replication::{CreatedSlot, ReplicationConnection};
use crate::error::Result;

/// Who takes part, and who watches.
pub struct Online<'a> {
    pub environment: &'a MoverEnvironment,
    pub catalog: &'a Session,
    pub source: &'a Session,
    pub targets: &'a [Target],
    pub tables: &'a [SourceTable],
    pub watch: &'a Guard,
}

/// What the tables on the targets get besides rows.
pub trait Making {
    fn build_keys_and_indexes(&self, online: &Online<'_>, mv: &Move) -> impl Future<Output = Result<()>> + Send;

    /// Foreign keys, what else only matters once clients write there, and statistics. Changes are applied meanwhile.
    fn finish(&self, online: &Online<'_>, mv: &Move, apply: &mut Apply) -> impl Future<Output = Result<()>> + Send;
}

/// Copies that follow.
pub struct Followed {
    pub copied: Copied,
    pub marker: Marker,
    pub apply: Apply,
}

impl Online<'_> {
    /// `slot`: made, and none of its changes read.
    ///
    /// Errors: 55000 when changes come faster than they are applied; XX001 when the sums differ; those of the nodes and of the guard.
    pub async fn copy_and_follow(
        &self,
        mv: &mut Move,
        routes: Routes,
        (replication, slot): (ReplicationConnection, CreatedSlot),
        making: &impl Making,
    ) -> Result<Followed> {
        let Online { environment, catalog, source, targets, tables, watch } = *self;
        let settings = &environment.settings;
        let copied = copy::copy(environment, catalog, mv, tables, &routes, Some(&slot.snapshot), watch).await?;
        watch.during(making.build_keys_and_indexes(self, mv)).await?;
        watch.during(row_index::build(targets, mv, tables)).await?;
        environment.stop_at(StopPoint::IndexesBuilt)?;

        mv.note_phase(catalog, "Catching Up", 0).await?;
        let stream = replication.start(&mv.name(), &mv.name(), slot.consistent_point).await?;
        let pace = Pace::new(environment, |limits| limits.change_rate_bytes);
        let mut apply = Apply::new(stream, targets, mv, routes, slot.consistent_point, pace);
        let mut marker = Marker::new(source.clone(), mv, environment);
        let following = async {
            marker.catch_up(&mut apply, settings.near * 10, settings.catch_up_patience).await?;
            mv.note_phase(catalog, "Creating Foreign Keys", 0).await?;
            making.finish(self, mv, &mut apply).await?;
            if settings.verify {
                mv.note_phase(catalog, "Final Catchup", 0).await?;
                marker.catch_up(&mut apply, settings.near * 10, settings.catch_up_patience).await?;
                verify::verify(environment, mv, tables, &mut marker, &mut apply).await?;
            }
            Ok(())
        };
        watch.during(following).await?;
        Ok(Followed { copied, marker, apply })
    }
}

/// What is moved is made of what the source has.
impl Making for Definition {
    async fn build_keys_and_indexes(&self, online: &Online<'_>, mv: &Move) -> Result<()> {
        target::build_keys_and_indexes(online.targets, mv, self).await
    }

    async fn finish(&self, online: &Online<'_>, mv: &Move, apply: &mut Apply) -> Result<()> {
        target::finish(online.environment, online.targets, mv, self, &mut Some(apply)).await
    }
}
