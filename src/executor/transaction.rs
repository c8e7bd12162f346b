//! A client's transaction over coordinator and workers: a small stand-in on control connections, for the tests of the
//! rooms above.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::catalog::{Address, Catalog, LOAD, connect, parse, pg_error};
use crate::error::{PgError, Result, SqlState};
use crate::shard_map::{NodeId, ShardGroupId, ShardMap, Table, TableKind};

pub struct Transaction {
    catalog: Arc<Catalog>,
    map: Arc<ShardMap>,
    clients: HashMap<NodeId, Client>,
    pub notices: Vec<PgError>,
}

impl Transaction {
    pub fn new(catalog: Arc<Catalog>) -> Self {
        Self { map: catalog.map(), catalog, clients: HashMap::new(), notices: Vec::new() }
    }

    pub fn map(&self) -> Arc<ShardMap> {
        self.map.clone()
    }

    async fn client(&mut self, node: NodeId) -> Result<&Client> {
        if !self.clients.contains_key(&node) {
            let settings = self.catalog.settings();
            let address = match self.map.node(node) {
                _ if node.is_coordinator() => settings.coordinator(),
                Some(row) => Address { host: row.host.clone(), port: row.port },
                None => return Err(PgError::new(SqlState::UNDEFINED_OBJECT, format!("no node {node}"))),
            };
            let client = connect(settings, &address).await?;
            client.batch_execute("SET search_path = public; BEGIN").await.map_err(pg_error)?;
            self.clients.insert(node, client);
        }
        Ok(&self.clients[&node])
    }

    pub async fn query(&mut self, node: NodeId, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let messages = self.client(node).await?.simple_query(sql).await.map_err(pg_error)?;
        Ok(messages
            .into_iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
                _ => None,
            })
            .collect())
    }

    pub async fn query_each(&mut self, work: Vec<(NodeId, String)>) -> Result<()> {
        for (node, sql) in work {
            self.query(node, &sql).await?;
        }
        Ok(())
    }

    pub async fn reload_map(&mut self) -> Result<Arc<ShardMap>> {
        let version = self.catalog.next_version();
        let rows = self.query(NodeId::COORDINATOR, LOAD).await?;
        self.map = Arc::new(parse(version, rows[0][0].as_deref().unwrap_or_default())?);
        Ok(self.map.clone())
    }

    pub async fn copy_rows(
        &mut self,
        from: NodeId,
        copy_out_sql: &str,
        into: &Arc<Table>,
        columns: &[String],
    ) -> Result<u64> {
        let data = {
            let stream = self.client(from).await?.copy_out(copy_out_sql).await.map_err(pg_error)?;
            let mut stream = std::pin::pin!(stream);
            let mut data = BytesMut::new();
            while let Some(chunk) = stream.next().await {
                data.extend_from_slice(&chunk.map_err(pg_error)?);
            }
            data
        };
        let map = self.map();
        let mut parts: HashMap<Option<ShardGroupId>, BytesMut> = HashMap::new();
        let mut count = 0;
        let mut at = 19;
        loop {
            let fields = i16::from_be_bytes([data[at], data[at + 1]]);
            if fields == -1 {
                break;
            }
            count += 1;
            let (start, mut end, mut group) = (at, at + 2, None);
            for i in 0..fields as usize {
                let len = i32::from_be_bytes(data[end..end + 4].try_into().unwrap_or_default());
                end += 4;
                if let TableKind::Distributed { column, hash } = into.kind
                    && columns[i] == into.columns[column].name
                {
                    if len < 0 {
                        return Err(PgError::new(
                            SqlState::NULL_VALUE_NOT_ALLOWED,
                            format!("the partition column of table {}.{} cannot be NULL", into.schema, into.name),
                        ));
                    }
                    let value = &data[end..end + len as usize];
                    let value = hash.hash_binary(into.columns[column].type_oid, value).unwrap_or_default();
                    let colocation = map.colocation(into.colocation);
                    group = colocation.and_then(|c| c.group_of_hash(value)).map(|g| g.id);
                }
                end += len.max(0) as usize;
            }
            parts.entry(group).or_insert_with(|| BytesMut::from(&data[..19])).extend_from_slice(&data[start..end]);
            at = end;
        }
        let names = columns.iter().map(|c| format!("\"{c}\"")).collect::<Vec<_>>().join(", ");
        for (group, mut part) in parts {
            part.put_i16(-1);
            let part = part.freeze();
            let (schema, nodes) = match group {
                Some(id) => {
                    let colocation = map.colocation(into.colocation);
                    let node = colocation.and_then(|c| c.group(id).map(|g| g.node));
                    (format!("{}_{id}", into.schema), node.into_iter().collect())
                }
                None => (into.schema.clone(), map.active_workers().map(|n| n.id).collect::<Vec<_>>()),
            };
            for node in nodes {
                let sql = format!("COPY \"{schema}\".\"{}\" ({names}) FROM STDIN (FORMAT binary)", into.name);
                let sink = self.client(node).await?.copy_in::<_, Bytes>(&sql).await.map_err(pg_error)?;
                let mut sink = std::pin::pin!(sink);
                sink.send(part.clone()).await.map_err(pg_error)?;
                sink.as_mut().finish().await.map_err(pg_error)?;
            }
        }
        Ok(count)
    }

    pub fn notice(&mut self, notice: PgError) {
        self.notices.push(notice);
    }

    pub async fn commit(self) -> Result<()> {
        for client in self.clients.values() {
            client.batch_execute("COMMIT").await.map_err(pg_error)?;
        }
        self.catalog.refresh().await?;
        Ok(())
    }
}
