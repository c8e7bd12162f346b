//! Session state follows the client and reaches nobody else: two or more clients share pools of three connections in
//! front of a coordinator and two workers.

#[path = "session_state/cursors.rs"]
mod cursors;
#[path = "session_state/pins.rs"]
mod pins;
#[path = "session_state/reading.rs"]
mod reading;
#[path = "session_state/roles.rs"]
mod roles;
#[path = "session_state/settings.rs"]
mod settings;
#[path = "session_state/statements.rs"]
mod statements;
mod support;
#[path = "session_state/texts.rs"]
mod texts;
#[path = "session_state/told.rs"]
mod told;
#[path = "protocol/wire.rs"]
#[allow(dead_code, reason = "each test program uses a part of it")]
mod wire;

use support::served::Served;
use wire::Wire;

/// One thread, so that all clients share one pool for each node.
const CONFIG: &str =
    "[limits]\nstatements = 40\n[pool]\nsize = 3\ncheckout_timeout = \"3s\"\nprepared_statements = 20\n";

/// One cluster for the whole file. The test that holds it runs every part in turn, so that it ends with them.
#[test]
fn state_of_a_session_is_its_own_and_follows_it() {
    let stage = Stage::start();
    settings::policies_see_the_settings_of_their_client(&stage);
    settings::settings_end_where_postgres_ends_them(&stage);
    settings::settings_by_other_names_are_carried(&stage);
    settings::what_is_current_is_kept(&stage);
    settings::names_follow_the_search_path(&stage);
    settings::settings_of_a_pipeline_end_with_it(&stage);
    told::what_the_client_is_told_of_settings_stays_right(&stage);
    settings::settings_that_postgres_does_not_know_have_defaults(&stage);
    reading::encodings_are_those_that_texts_are_read_in(&stage);
    reading::backslashes_are_letters(&stage);
    reading::hidden_code_does_not_change_how_texts_are_read(&stage);
    reading::hidden_code_does_not_change_how_the_rest_of_a_packet_is_read(&stage);
    told::what_hidden_code_sets_is_what_the_client_is_told(&stage);
    told::a_change_is_told_once(&stage);
    settings::a_setting_that_is_looked_up_is_carried(&stage);
    settings::what_cannot_be_carried_is_refused(&stage);
    pins::hidden_state_reaches_nobody(&stage);
    roles::roles_follow_their_client(&stage);
    roles::defaults_of_a_role_reach_its_next_login(&stage);
    roles::open_sessions_keep_what_they_began_with(&stage);
    roles::kept_defaults_may_name_what_is_gone(&stage);
    texts::texts_mean_what_postgres_reads(&stage);
    texts::names_that_end_a_text_are_names(&stage);
    pins::what_pins_is_let_go_of_when_it_is_gone(&stage);
    pins::a_name_that_is_taken_later_is_refused(&stage);
    pins::sequences_values_are_the_transactions_own(&stage);
    pins::an_idle_listener_is_notified(&stage);
    statements::names_of_prepared_statements_are_the_clients_own(&stage);
    statements::a_client_is_shown_what_it_has_prepared(&stage);
    statements::servers_keep_a_bounded_number_of_statements(&stage);
    statements::a_changed_table_is_noticed_by_prepared_statements(&stage);
    statements::prepared_statements_follow_the_search_path(&stage);
    cursors::many_tenants_can_be_read_in_read_only_transactions(&stage);
    cursors::cursors_stay_open_beside_other_queries(&stage);
    texts::nothing_of_a_text_is_too_deep_or_too_long(&stage);
}

struct Stage {
    served: Served,
    /// Two tenants of `items` that live on different workers.
    tenants: [u32; 2],
}

impl Stage {
    fn start() -> Self {
        let served = Served::start_with(2, 1, CONFIG);
        for sql in [
            "CREATE TABLE items (tenant int, id int, name text, PRIMARY KEY (tenant, id))",
            "SELECT create_distributed_table('items', 'tenant')",
            "INSERT INTO items SELECT t, i, 'name ' || i FROM generate_series(1, 40) t, generate_series(1, 3) i",
            "CREATE TABLE plain (id serial, said text)",
            "CREATE TABLE triggered (id int)",
            "CREATE ROLE app LOGIN",
            "CREATE ROLE other NOLOGIN",
            "CREATE ROLE preset LOGIN",
            "GRANT other TO app",
            "GRANT SELECT, INSERT ON items TO app",
            "GRANT SELECT ON items TO other",
            "GRANT SELECT ON items TO preset",
            "GRANT ALL ON plain TO app",
            "GRANT ALL ON triggered TO app",
            "GRANT ALL ON SEQUENCE plain_id_seq TO app",
            "ALTER ROLE preset SET app.tenant = 'all'",
            "ALTER TABLE items ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY own ON items USING (current_setting('app.tenant', true) IN (tenant::text, 'all'))",
            "CREATE FUNCTION hide() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
               PERFORM set_config('app.tenant', 'all', false); PERFORM set_config('work_mem', '9MB', false);
               PERFORM pg_advisory_lock(99); RETURN 1; END $$",
            "CREATE FUNCTION calls_hide() RETURNS int LANGUAGE sql AS 'SELECT hide()'",
            "CREATE FUNCTION on_insert() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               PERFORM hide(); RETURN NEW; END $$",
            "CREATE TRIGGER hidden BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION on_insert()",
            "CREATE VIEW viewed AS SELECT hide() AS seen",
            "GRANT SELECT ON viewed TO app",
        ] {
            served.psql(sql);
        }
        let node_of = |tenant: u32| {
            served.psql(&format!(
                "SELECT nodeport FROM pg_dist_shard_placement \
                 WHERE shardid = get_shard_id_for_distribution_column('items', {tenant})"
            ))
        };
        let there = (2..40).find(|t| node_of(*t) != node_of(1)).expect("two workers have shards");
        Self { served, tenants: [1, there] }
    }

    fn port(&self) -> u16 {
        self.served.proxy_port(0)
    }

    fn app(&self) -> Wire {
        Wire::login(self.port(), "app")
    }

    fn superuser(&self) -> Wire {
        Wire::login(self.port(), "postgres")
    }

    /// How many of the two tenants, on two workers, a policy shows; and the setting on the coordinator.
    fn seen(&self, client: &mut Wire) -> String {
        let mut seen = 0;
        for tenant in self.tenants {
            let answer = client.query(&format!("SELECT count(*) FROM items WHERE tenant = {tenant}"));
            seen += i32::from(answer.contains(&"D 3".to_owned()));
        }
        let here = row(&client.query("SELECT current_setting('app.tenant', true)"));
        format!("{seen} {here}")
    }
}

/// The first row of an answer; the whole answer when there is none.
fn row(answer: &[String]) -> String {
    let first = answer.iter().find_map(|a| a.strip_prefix('D'));
    first.map_or_else(|| answer.join(" "), |row| row.trim_start().to_owned())
}

fn code(answer: &[String]) -> String {
    answer.iter().find_map(|a| a.strip_prefix("E ")).unwrap_or("no error").to_owned()
}
