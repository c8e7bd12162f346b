use crate::sql::facts::Var;
use crate::sql::scope::ScopeNode;
use crate::sql::tree::Select;
use super::statement::Statement;
use super::{Plan, Shards};
pub(super) fn plan(_: &Statement<'_>, _: &Select, _: &ScopeNode, _: Var, _: &Shards) -> Option<Plan> { None }
