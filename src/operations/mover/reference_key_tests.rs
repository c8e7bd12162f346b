//! Foreign keys to reference tables, whose copies are written by transactions over several nodes.

use super::tests::{SOURCE, Stage, TARGET};

/// A partitioned table's key is checked as it is added. A row that it needs may be on its way to this copy of the reference
/// table; here it comes with the second attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_waits_for_a_reference_row_that_is_on_its_way() {
    let stage = Stage::set(0, "").await;
    for (worker, rows) in stage.workers.iter().zip([2, 1]) {
        let sql = format!(
            "CREATE TABLE public.ref (id int PRIMARY KEY); INSERT INTO public.ref SELECT generate_series(1, {rows})"
        );
        worker.batch_execute(&sql).await.unwrap();
    }
    stage.workers[1]
        .batch_execute(
            "CREATE SEQUENCE public.attempts;
             CREATE FUNCTION public.come_late() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF current_query() LIKE '%FOREIGN KEY%' THEN
                     IF nextval('public.attempts') = 2 THEN INSERT INTO public.ref VALUES (2); END IF;
                 END IF; END $$;
             CREATE EVENT TRIGGER come_late ON ddl_command_start WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION public.come_late();
             ALTER EVENT TRIGGER come_late ENABLE ALWAYS",
        )
        .await
        .unwrap();
    stage.workers[0]
        .batch_execute(
            "CREATE SCHEMA public_102008; SET search_path TO public_102008;
             CREATE TABLE orders (id int PRIMARY KEY, ref int REFERENCES public.ref) PARTITION BY RANGE (id);
             CREATE TABLE orders_all PARTITION OF orders DEFAULT;
             INSERT INTO orders VALUES (1, 1), (2, 2)",
        )
        .await
        .unwrap();
    stage.give_one_shard_group().await;
    stage.move_to(SOURCE, TARGET).await.unwrap().unwrap();
    assert_eq!(stage.number(TARGET, "SELECT last_value FROM public.attempts").await, 2);
    assert_eq!(stage.number(TARGET, "SELECT count(*) FROM public_102008.orders").await, 2);
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    stage.strike().await;
}
