//! What one connection costs in system calls, counted by strace: the bars of benches/count_syscalls.py hold.

mod support;

use support::ended_in_time;
use support::served::Served;

/// Goal: a statement for one tenant, a pipeline and a long answer take no more system calls than is promised. Method: the thread that
/// serves clients is traced alone, so that what a cluster does by itself is not counted.
#[test]
fn statements_pipelines_and_long_answers_take_few_system_calls() {
    let served = Served::start_with(1, 1, "");
    served.psql(
        "CREATE TABLE bench (tenant_id int, id int, value int NOT NULL, filler text, PRIMARY KEY (tenant_id, id))",
    );
    served.psql("SELECT create_distributed_table('bench', 'tenant_id')");
    served.psql("INSERT INTO bench SELECT 1, i, i, 'some text as rows of applications have it' FROM generate_series(1, 100000) i");
    let output = ended_in_time("python3")
        .args(["benches/count_syscalls.py", "tenantry", &served.proxy_port(0).to_string()])
        .arg(data_thread(served.proxy_process(0)))
        .args(["simple", "extended", "prepared", "pipeline", "rows"])
        .output()
        .expect("python3 is installed");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches(": reached").count(), 5, "{said}");
    println!("{said}");
}

fn data_thread(process: u32) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    let names = tasks.map(|task| task.expect("it is read").path());
    let name = |task: &std::path::Path| std::fs::read_to_string(task.join("comm")).unwrap_or_default();
    let data = names.filter(|task| name(task).starts_with("data-")).collect::<Vec<_>>();
    let [one] = &data[..] else { panic!("one thread serves clients: {data:?}") };
    one.file_name().expect("its number").to_string_lossy().into_owned()
}
