//! Slows down who writes to a shard group: its statements are held for a moment, again and again, with ever shorter pauses between.
//! No statement waits long; together they do no more than somebody who follows them can.

use std::sync::Arc;
use std::time::Duration;

use super::Holds;
use crate::shard_map::ShardGroupId;
use crate::transport::timer;

/// Until it is dropped.
pub async fn pulse(holds: &Arc<Holds>, groups: &[ShardGroupId]) {
    let mut pause = PULSE;
    loop {
        let guards: Vec<_> = groups.iter().map(|group| holds.begin(*group)).collect();
        timer::sleep(PULSE).await;
        drop(guards);
        timer::sleep(pause).await;
        pause = (pause * 9 / 10).max(PAUSE_MIN);
    }
}

/// How long a statement waits.
pub const PULSE: Duration = Duration::from_millis(30);
const PAUSE_MIN: Duration = Duration::from_millis(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn statements_wait_for_a_moment_again_and_again_and_no_more_when_it_is_dropped() {
        let (holds, group) = (Arc::new(Holds::default()), ShardGroupId(1));
        let groups = [group];
        {
            let mut pulses = std::pin::pin!(pulse(&holds, &groups));
            for _ in 0..5 {
                assert!(futures_util::poll!(&mut pulses).is_pending());
                while !holds.is_held(group) {
                    let _ = timer::timeout(Duration::from_millis(1), &mut pulses).await;
                }
                let released = holds.wait(group, Duration::from_secs(60));
                tokio::select! {
                    () = &mut pulses => unreachable!("it goes on"),
                    released = released => assert!(released),
                }
            }
        }
        assert!(!holds.is_held(group) && holds.held() == 0);
    }
}
