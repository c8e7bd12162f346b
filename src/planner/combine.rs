use super::statement::Statement;
use super::{Plan, Shards};
use crate::sql::facts::Var;
use crate::sql::scope::ScopeNode;
use crate::sql::tree::Select;
pub(super) fn plan(_: &Statement<'_>, _: &Select, _: &ScopeNode, _: Var, _: &Shards) -> Option<Plan> {
    None
}
