//! Groups that no other shard has, or none: the shards run the statement whole.

use crate::sql::tree::{Distinct, Expr, Item};

use super::{Combiner, Partial, Piece, ROWS, name_of, quoted};

impl Combiner<'_, '_> {
    /// The shards run the statement but for ORDER BY, LIMIT and DISTINCT, which are repeated over their rows.
    pub(super) fn whole(&self) -> Option<(Partial<'_>, String)> {
        let names = self.output_names()?;
        let unique: std::collections::HashSet<&String> = names.iter().collect();
        if unique.len() != names.len() || names.iter().any(|n| n.starts_with("tenantry_o")) {
            return None;
        }
        let distinct = matches!(self.select.distinct, Distinct::Rows);
        let mut head = vec![Piece::Source(0..self.select.at), Piece::Text("SELECT ".into())];
        if distinct {
            head.push(Piece::Text("DISTINCT ".into()));
        }
        for (n, item) in self.select.items.iter().enumerate() {
            if n > 0 {
                head.push(Piece::Text(", ".into()));
            }
            match item {
                Item::Expr { expr, alias } => {
                    let name = alias.as_ref().map_or_else(|| name_of(expr), |a| Some(a.value.clone()))?;
                    head.push(Piece::Source(self.item_range(n)?));
                    head.push(Piece::Text(format!(" AS {}", quoted(&name))));
                }
                _ => head.push(Piece::Source(self.clauses.items[n].clone())),
            }
        }
        let mut order = Vec::new();
        for (n, expr) in self.statement.tree.order_by.iter().enumerate() {
            let (range, rest) = self.order_item(n, names.len())?;
            let by_name = match expr {
                Expr::Number(n) => Some(names.get(n.parse::<usize>().ok()?.checked_sub(1)?)?.clone()),
                Expr::Column(parts) if parts.len() == 1 => names.iter().find(|n| **n == parts[0].value).cloned(),
                _ => None,
            };
            let column = match by_name {
                Some(name) => quoted(&name),
                // SELECT DISTINCT sorts by what it selects; unknown forms are left to the pull.
                None if distinct || matches!(expr, Expr::String(_) | Expr::Param(_)) => return None,
                None => {
                    let name = format!("tenantry_o{n}");
                    head.push(Piece::Text(", ".into()));
                    head.push(Piece::Source(range));
                    head.push(Piece::Text(format!(" AS {name}")));
                    name
                }
            };
            order.push(format!("{column}{}", self.statement.slice(&rest)));
        }
        head.push(Piece::Text(" ".into()));
        head.push(Piece::Source(self.clauses.body.clone()));
        if let (Some(first), Some(last)) = (self.clauses.group_by.first(), self.clauses.group_by.last()) {
            head.push(Piece::Text(" GROUP BY ".into()));
            head.push(Piece::Source(first.start..last.end));
        }
        if let Some(having) = &self.clauses.having {
            head.push(Piece::Text(" HAVING ".into()));
            head.push(Piece::Source(having.clone()));
        }
        let order_by = if order.is_empty() { String::new() } else { format!(" ORDER BY {}", order.join(", ")) };
        if let Some(limit) = self.limit_for_shards() {
            // Names of output columns, as in the last step: ORDER BY knows them on the shards as well.
            head.push(Piece::Text(format!("{order_by} LIMIT {limit}")));
        }
        let columns: Vec<String> = names.iter().map(|n| quoted(n)).collect();
        let last = format!(
            "SELECT {}{} FROM pg_temp.{ROWS}{order_by}{}",
            if distinct { "DISTINCT " } else { "" },
            columns.join(", "),
            self.tail()
        );
        Some((self.render(head), last))
    }

    /// How many rows of a shard can matter.
    fn limit_for_shards(&self) -> Option<String> {
        let tree = self.statement.tree;
        let value = |e: &Expr| match e {
            Expr::Number(n) if n.bytes().all(|b| b.is_ascii_digit()) && n.len() < 16 => Some(n.clone()),
            Expr::Param(n) => Some(format!("${}::bigint", n + 1)),
            _ => None,
        };
        let limit = value(tree.limit.as_ref()?)?;
        match &tree.offset {
            None => Some(limit),
            Some(offset) => Some(format!("({limit} + {})", value(offset)?)),
        }
    }
}
