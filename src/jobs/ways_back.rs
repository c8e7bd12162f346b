//! Looks after the ways back of moves that can be undone, each by one proxy at a time.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use crate::operations::mover::MoverEnvironment;
use crate::operations::mover::undo::{look_after, open_ways_back};
use crate::tally::Recurring;

/// Until `stop`; the next proxy that looks goes on then.
pub async fn run(environment: MoverEnvironment, stop: CancellationToken) {
    let _ = stop.run_until_cancelled(work(&environment)).await;
}

async fn work(environment: &MoverEnvironment) {
    // Their time goes on while the catalog cannot be reached.
    let (mut windows, mut ours, mut under_way) = (HashMap::new(), HashSet::new(), FuturesUnordered::new());
    let (mut trouble, mut left_alone) = (Recurring::default(), Recurring::default());
    loop {
        match open_ways_back(environment).await {
            Ok(open) => {
                trouble.works(UNSEEN);
                windows.retain(|id, _| open.contains(id));
                for id in open {
                    if ours.insert(id) {
                        let mut window = windows.remove(&id);
                        under_way.push(async move { (id, look_after(environment, id, &mut window).await, window) });
                    }
                }
            }
            Err(error) => trouble.failed(&error, UNSEEN),
        }
        let look_again = tokio::time::sleep(EVERY);
        tokio::pin!(look_again);
        loop {
            tokio::select! {
                Some((id, ended, window)) = under_way.next() => {
                    ours.remove(&id);
                    windows.extend(window.map(|window| (id, window)));
                    match ended {
                        Ok(()) => left_alone.works(LEFT_ALONE),
                        Err(error) => left_alone.failed(&format!("shard move {id}: {error}"), LEFT_ALONE),
                    }
                }
                () = &mut look_again => break,
            }
        }
    }
}

const LEFT_ALONE: &str = "could not look after the way back of a shard move";
const UNSEEN: &str = "could not look for moves that can be undone";
const EVERY: Duration = Duration::from_secs(2);
