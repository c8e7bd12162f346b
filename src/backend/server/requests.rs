//! What a server is asked: messages that leave with the next `flush`, each with the answer that is due for it.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

use super::Server;
use crate::backend::prepared::{Plans, StatementKey};
use crate::wire::answer;
use crate::wire::frontend::{self, Bind, Target};
use crate::wire::reply_queue::{Reply, To};
use crate::wire::rows;

impl Server {
    /// Raw bytes that need no reply of their own (CopyData), or whose reply is announced by `owe`.
    pub fn queue(&mut self) -> &mut BytesMut {
        &mut self.write
    }

    /// Bytes that are queued and have not left yet.
    pub fn queued_bytes(&self) -> usize {
        self.write.len()
    }

    /// An answer of the proxy's own, in its place among this server's.
    pub fn simulate(&mut self, answer: Bytes) {
        self.replies.push_simulated(answer);
    }

    pub fn owe(&mut self, reply: Reply, to: To) {
        self.replies.push(reply, to);
    }

    pub fn queue_query(&mut self, sql: &str, to: To) {
        frontend::query(sql, &mut self.write);
        self.replies.push(Reply::Query, to);
    }

    pub fn queue_parse(&mut self, name: &str, sql: &str, types: &[u32], to: To) {
        let types = self.types_here(types);
        frontend::parse(name.as_bytes(), sql, &types, &mut self.write);
        self.replies.push(Reply::Parse, to);
    }

    fn types_here<'t>(&self, types: &'t [u32]) -> Cow<'t, [u32]> {
        let is_known = |oid: u32| self.knows_user_types || oid < rows::FIRST_USER_OID;
        if types.iter().all(|oid| is_known(*oid)) {
            return Cow::Borrowed(types);
        }
        types.iter().map(|oid| if is_known(*oid) { *oid } else { 0 }).collect()
    }

    pub fn queue_bind(&mut self, bind: &Bind, portal: &[u8], statement: &str, to: To) {
        bind.write(portal, statement.as_bytes(), &mut self.write);
        self.replies.push(Reply::Bind, to);
    }

    /// A Bind to what `ensure_prepared` has made known.
    pub fn queue_bind_prepared(&mut self, bind: &Bind, key: StatementKey, to: To) {
        bind.write(&bind.portal, self.prepared.name(key).as_bytes(), &mut self.write);
        self.replies.push(Reply::Bind, to);
    }

    pub fn queue_describe(&mut self, target: Target<'_>, to: To) {
        frontend::describe(target, &mut self.write);
        let reply = match target {
            Target::Statement(_) => Reply::DescribeStatement,
            Target::Portal(_) => Reply::DescribePortal,
        };
        self.replies.push(reply, to);
    }

    pub fn queue_execute(&mut self, portal: &[u8], limit: u32, to: To) {
        frontend::execute(portal, limit, &mut self.write);
        self.replies.push(Reply::Execute, to);
    }

    pub fn queue_close(&mut self, target: Target<'_>, to: To) {
        frontend::close(target, &mut self.write);
        self.replies.push(Reply::Close, to);
    }

    pub fn queue_sync(&mut self) {
        frontend::sync(&mut self.write);
        self.replies.push(Reply::Sync, To::Nobody);
    }

    pub fn queue_flush(&mut self) {
        frontend::flush(&mut self.write);
    }

    /// A statement of the proxy's own between the client's messages: no Sync, no rows, and the client's portals stay.
    pub fn queue_between(&mut self, sql: &str) {
        self.queue_parse("", sql, &[], To::Nobody);
        // It ends with the transaction; closing it would look like an evicted statement.
        let portal = format!("tenantry {sql}");
        self.queue_bind(&Bind::text(&[]), portal.as_bytes(), "", To::Nobody);
        self.queue_execute(portal.as_bytes(), 0, To::Nobody);
    }

    /// Makes `key` known to this connection, for one Bind. ParseComplete comes for `to`, also where nothing has to be parsed.
    pub fn ensure_prepared(
        &mut self,
        key: StatementKey,
        plans: Plans,
        types: &[u32],
        to: To,
        sql: impl FnOnce() -> String,
    ) {
        if plans == Plans::WithValues && self.prepared.close_planned(key, &mut self.write) {
            self.replies.push(Reply::Close, To::Nobody);
        }
        if self.prepared.is_known(key) {
            if to == To::Client {
                self.simulate(Bytes::from_static(answer::PARSE_COMPLETE));
            }
            return;
        }
        for _ in 0..self.prepared.add(key, &mut self.write) {
            self.replies.push(Reply::Close, To::Nobody);
        }
        let types = self.types_here(types);
        frontend::parse(key.name().as_bytes(), &sql(), &types, &mut self.write);
        self.replies.push(Reply::Prepare, to);
    }
}
