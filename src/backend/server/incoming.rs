//! What comes from the server: bytes, the frames in them, and what each of them is an answer to.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use super::{CLOSED, Frame, SILENT, Server, unless_lost};
use crate::backend::pace;
use crate::error::{PgError, Result};
use crate::transport::timer;
use crate::wire::frame;
use crate::wire::reply_queue::{Reply, To, Verdict};

impl Server {
    /// What has been received and not yet consumed.
    pub fn received(&self) -> &[u8] {
        &self.read
    }

    /// The length of the whole rows at the start of it, when rows are due, and who asked for them.
    pub fn received_rows(&self) -> Option<(To, usize)> {
        let to = self.replies.rows_go_to()?;
        let len = frame::rows_len(&self.read);
        (len > 0).then_some((to, len))
    }

    /// The header of the frame at the start of it, if that much is there.
    ///
    /// Errors: 08006 for a length that cannot be: where the next frame begins is unknown.
    pub fn received_header(&mut self) -> Result<Option<frame::Header>> {
        frame::header(&self.read).map_err(|_| self.lost("server sent a broken message"))
    }

    pub fn consume(&mut self, bytes: usize) {
        self.read.advance(bytes);
        self.shed();
    }

    /// Gives back what a long answer needed and the next may not.
    fn shed(&mut self) {
        if self.pace.has_grown && self.pace.is_short() && self.read.is_empty() {
            self.pace.has_grown = false;
            self.read = BytesMut::new();
        }
    }

    /// Waits for more bytes. Cancel safe: what was read stays in the buffer.
    pub async fn receive(&mut self) -> Result<()> {
        if self.broken {
            return Err(self.lost("it was lost before"));
        }
        self.shed();
        self.read.reserve(self.pace.room());
        if self.pace.may_wait() && !self.pace.is_patient {
            self.pace.is_patient = self.stream.set_low_water(pace::LOW_WATER).is_ok();
        }
        let received = loop {
            let reading = unless_lost(&self.link, self.stream.read_buf(&mut self.read));
            if !self.pace.is_patient {
                break reading.await;
            }
            match timer::timeout(pace::PATIENCE, reading).await {
                Ok(received) => break received,
                Err(_) => self.end_patience(),
            }
        };
        match received {
            Some(Ok(0)) => Err(self.lost(CLOSED)),
            Some(Ok(n)) => {
                self.pace.note(n);
                self.tally.traffic.received.add(n as u64);
                Ok(())
            }
            Some(Err(e)) => Err(self.lost(&e.to_string())),
            None => Err(self.lost(SILENT)),
        }
    }

    /// From here on the socket wakes us for every byte again; for those that are there, at once.
    pub(super) fn end_patience(&mut self) {
        self.pace.start_again();
        if std::mem::take(&mut self.pace.is_patient)
            && let Err(error) = self.stream.set_low_water(1)
        {
            // It would sit on the ends of answers.
            self.retired = true;
            tracing::warn!(%error, "could not have a server connection read byte by byte again");
        }
    }

    /// The header of the next frame, which stays where it is. Cancel safe.
    pub async fn next_header(&mut self) -> Result<frame::Header> {
        loop {
            if let Some(header) = self.received_header()? {
                return Ok(header);
            }
            self.receive().await?;
        }
    }

    /// The next whole frame. Cancel safe.
    pub async fn next_frame(&mut self) -> Result<Frame> {
        loop {
            match self.received_header()? {
                Some(h) if self.read.len() >= h.len => {
                    return Ok(Frame { tag: h.tag, bytes: self.read.split_to(h.len).freeze() });
                }
                // Bit by bit: a length alone must not take memory.
                Some(h) => self.read.reserve((h.len - self.read.len()).min(pace::LONG_READ_LEN)),
                None => {}
            }
            self.receive().await?;
        }
    }

    /// Judges the frame at the start of what was received; `len` bytes of it are there.
    pub fn judge_received(&mut self, tag: u8, len: usize) -> Result<Verdict> {
        // Most frames are judged by their tag alone; only these few are opened.
        if !matches!(tag, b'S' | b'Z' | b'E' | b'N') {
            return self.judge(tag, &[]);
        }
        // Put aside, because judging changes everything but the bytes judged.
        let read = std::mem::take(&mut self.read);
        let verdict = self.judge(tag, &read[frame::HEADER_LEN..len]);
        self.read = read;
        verdict
    }

    /// Is the reply that is due next one that the client asked for?
    pub fn front_is_clients(&self) -> bool {
        self.replies.front().is_some_and(|due| due.to == To::Client)
    }

    /// Is only the end of what was sent since the last Sync due?
    pub fn front_is_sync(&self) -> bool {
        self.replies.front().is_some_and(|due| due.reply == Reply::Sync)
    }

    /// The next whole frame, judged. Notifications are kept. Cancel safe.
    pub async fn next_reply(&mut self) -> Result<(Frame, Verdict)> {
        let frame = self.next_frame().await?;
        let verdict = self.judge(frame.tag, frame.payload())?;
        if frame.tag == b'A' {
            self.notifications.push(frame.bytes.clone());
        }
        Ok((frame, verdict))
    }

    /// Keeps the notification at the start of what was received, which is `len` bytes long.
    pub fn keep_notification(&mut self, len: usize) {
        self.notifications.push(self.read.split_to(len).freeze());
    }

    /// Notifications that came while something else was read.
    pub fn take_notifications(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.notifications)
    }

    /// A frame that nobody has asked for, if a whole one has been received: a notification, a notice, a parameter.
    ///
    /// Errors: what the server says when it ends the connection; 08006 for a frame that does not belong here.
    pub fn take_unasked(&mut self) -> Result<Option<Frame>> {
        while let Some(header) = self.received_header()?
            && self.read.len() >= header.len
        {
            let frame = Frame { tag: header.tag, bytes: self.read.split_to(header.len).freeze() };
            if frame.tag == b'E' {
                self.broken = true;
                return Err(PgError::from_body(frame.payload()));
            }
            if self.judge(frame.tag, frame.payload())? != Verdict::Demand {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }
}
