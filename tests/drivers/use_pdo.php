<?php
// PHP's PDO, which Laravel and Doctrine stand on, and its pgsql extension (libpq both). Arguments: see matrix.py.

declare(strict_types=1);

set_error_handler(function (int $level, string $message): bool {
    throw new ErrorException($message, 0, $level);
});
[, $dsn, $behind, $password_dsn] = $argv;
const TABLES = ['orders', 'products', 'notes'];
const DOC = ['a' => [1, null, 'ü'], 'deep' => ['b' => true]];
const DATA = "\0\xff'";

function check(mixed $got, mixed $want): void
{
    if ($got !== $want) {
        throw new Exception('got ' . var_export($got, true) . ', want ' . var_export($want, true));
    }
}

/** What fails with an exception of PDO: its SQLSTATE. */
function state_of(callable $run): string
{
    try {
        $run();
    } catch (PDOException $error) {
        return $error->errorInfo[0];
    }
    throw new Exception('this must fail');
}

/** A URI's parts as libpq's keywords; the URI itself is no DSN of PDO. */
function keywords(string $uri): array
{
    $parts = parse_url($uri);
    parse_str($parts['query'], $settings);
    return ['host' => $parts['host'], 'port' => $parts['port'], 'dbname' => substr($parts['path'], 1),
        'user' => $parts['user'], 'password' => rawurldecode($parts['pass'] ?? ''), 'options' => $settings['options']];
}

function words(array $keywords, string $between): string
{
    $keywords = array_filter($keywords);
    return implode($between, array_map(fn ($name, $value) => "$name='$value'", array_keys($keywords), $keywords));
}

function connect(array $attributes = [], ?string $uri = null): PDO
{
    global $dsn;
    return new PDO('pgsql:' . words(keywords($uri ?? $dsn), ';'), null, null,
        $attributes + [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION, PDO::ATTR_DEFAULT_FETCH_MODE => PDO::FETCH_NUM]);
}

function pg(): PgSql\Connection
{
    global $dsn;
    return pg_connect(words(keywords($dsn), ' '), PGSQL_CONNECT_FORCE_NEW);
}

function one(PDO $db, string $sql, array $values = []): mixed
{
    $statement = $db->prepare($sql);
    $statement->execute($values);
    return $statement->fetchColumn();
}

function rows(PDO $db, string $sql, array $values = []): array
{
    $statement = $db->prepare($sql);
    $statement->execute($values);
    return $statement->fetchAll();
}

function logs_in(): void
{
    global $password_dsn;
    check(one(connect(), 'SELECT current_schema()'), 'use_pdo');
    if ($password_dsn === '') {
        return;
    }
    check(one(connect([], $password_dsn), 'SELECT count(*) FROM orders'), 0);
    try {
        connect([], str_replace('correct', 'wrong', $password_dsn));
    } catch (PDOException $error) {
        check(str_contains($error->getMessage(), 'password authentication failed'), true);
        return;
    }
    throw new Exception('this must fail');
}

/** Values inside of the text, values beside it with a statement that is kept, and with one that is not. */
const WAYS = ['emulated' => [PDO::ATTR_EMULATE_PREPARES => true], 'native' => [PDO::ATTR_EMULATE_PREPARES => false],
    'unnamed' => [PDO::PGSQL_ATTR_DISABLE_PREPARES => true]];

function types(): void
{
    $at = new DateTimeImmutable('2024-12-31 23:30:00.123456+00');
    foreach (array_values(WAYS) as $tenant => $way) {
        $db = connect($way);
        foreach (TABLES as $table) {
            $insert = $db->prepare("INSERT INTO $table (tenant, id, name, amount, ratio, flag, day, at, doc, written, data, numbers, feeling)
                VALUES (:tenant, :id, :name, :amount, :ratio, :flag, :day, :at, :doc, :written, :data, :numbers, :feeling) RETURNING id");
            $insert->bindValue('tenant', $tenant + 1, PDO::PARAM_INT);
            $insert->bindValue('data', DATA, PDO::PARAM_LOB);
            $json = json_encode(DOC, JSON_UNESCAPED_UNICODE);
            $others = ['name' => "order 'ü'", 'amount' => '12345.678', 'ratio' => '1.5', 'day' => '2024-02-29',
                'at' => $at->format('Y-m-d H:i:s.uP'), 'doc' => $json, 'written' => $json, 'numbers' => '{1,NULL,-3}', 'feeling' => 'bad'];
            foreach ($others as $name => $value) {
                $insert->bindValue($name, $value);
            }
            for ($id = 0; $id < 5; $id++) {
                $insert->bindValue('id', $id, PDO::PARAM_INT);
                $insert->bindValue('flag', $id % 2 === 0, PDO::PARAM_BOOL);
                $insert->execute();
                check($insert->fetchAll(), [[$id]]);
            }
            $find = $db->prepare("SELECT name, amount, ratio, flag, day, at, doc, written, numbers, feeling, data FROM $table WHERE tenant = ? AND id = ?");
            $find->execute([$tenant + 1, 3]);
            $row = $find->fetch(PDO::FETCH_ASSOC);
            check(stream_get_contents($row['data']), DATA);
            check(json_decode($row['doc'], true), DOC);
            check([$row['name'], $row['amount'], $row['flag'], $row['written']], ["order 'ü'", '12345.678', false, $json]);
            check([(float) $row['ratio'], $row['day'], $row['numbers'], $row['feeling']], [1.5, '2024-02-29', '{1,NULL,-3}', 'bad']);
            check(new DateTimeImmutable($row['at']) == $at, true);
            $columns = array_map($find->getColumnMeta(...), [5, 9]);
            check(array_column($columns, 'native_type'), ['timestamptz', 'mood']);
            check(array_column($columns, 'table'), [$table, $table]);
            check(one($db, "SELECT sum(amount) FROM $table WHERE at = ?", [$others['at']]), sprintf('%.3f', 12345.678 * 5 * ($tenant + 1)));
            check(one($db, "SELECT count(*) FROM $table WHERE doc @> ? AND doc->'a'->>2 = ?", ['{"deep": {"b": true}}', 'ü']), 5 * ($tenant + 1));
            $db->exec("SET TIME ZONE 'Asia/Tokyo'");
            check(one($db, "SELECT at FROM $table WHERE tenant = ? AND id = ?", [$tenant + 1, 3]), '2025-01-01 08:30:00.123456+09');
            $db->exec('SET TIME ZONE DEFAULT');
        }
    }
}

function prepared_statements(): void
{
    foreach (WAYS as $way) {
        $db = connect($way);
        foreach (TABLES as $table) {
            $find = $db->prepare("SELECT id FROM $table WHERE tenant = :tenant AND id = :id");
            $many = $db->prepare("SELECT tenant, count(*) FROM $table WHERE id < ? GROUP BY tenant ORDER BY tenant");
            for ($i = 0; $i < 12; $i++) {
                $find->execute(['tenant' => 1 + $i % 3, 'id' => $i % 5]);
                check($find->fetchAll(), [[$i % 5]]);
                $many->execute([$i % 5]);
                check($many->fetchAll(), $i % 5 === 0 ? [] : [[1, $i % 5], [2, $i % 5], [3, $i % 5]]);
            }
            $change = $db->prepare("UPDATE $table SET big = ? WHERE tenant = ? AND id < ?");
            $change->execute([7, 2, 3]);
            check($change->rowCount(), 3);
            // Tells the server to forget them.
            unset($find, $many, $change);
        }
        check($db->exec('UPDATE orders SET big = 8 WHERE tenant = 2'), 5);
    }
    $c = pg();
    foreach (TABLES as $table) {
        pg_prepare($c, "find_$table", "SELECT id FROM $table WHERE tenant = $1 AND id = $2");
        for ($i = 0; $i < 12; $i++) {
            check(pg_fetch_all_columns(pg_execute($c, "find_$table", [1 + $i % 3, $i % 5])), [(string) ($i % 5)]);
        }
        check(pg_fetch_result(pg_query_params($c, "SELECT count(*) FROM $table WHERE id = $1", [1]), 0, 0), '3');
    }
}

function transactions(): void
{
    foreach (WAYS as $way) {
        $db = connect($way);
        foreach (TABLES as $table) {
            $db->beginTransaction();
            check(rows($db, "INSERT INTO $table (tenant, id) VALUES (?, ?) RETURNING id", [20, 1]), [[1]]);
            $db->exec('SAVEPOINT a');
            check(state_of(fn () => rows($db, "INSERT INTO $table (tenant, id) VALUES (?, ?)", [1, 1])), '23505');
            check(state_of(fn () => rows($db, 'SELECT 1')), '25P02');
            $db->exec('ROLLBACK TO a');
            $db->exec("INSERT INTO $table (tenant, id) VALUES (22, 1); INSERT INTO $table (tenant, id) VALUES (23, 1)");
            check($db->inTransaction(), true);
            $db->commit();
            check($db->inTransaction(), false);
            check(rows($db, "SELECT tenant FROM $table WHERE tenant >= ? ORDER BY 1", [20]), [[20], [22], [23]]);
            $db->beginTransaction();
            check($db->exec("DELETE FROM $table"), 18);
            $db->rollBack();
            check($db->exec("DELETE FROM $table WHERE tenant >= 20"), 3);
        }
    }
}

function copies(): void
{
    $db = connect();
    foreach (TABLES as $table) {
        $db->beginTransaction();
        $lines = array_map(fn ($i) => 30 + $i % 7 . "\t$i\t" . ($i % 2 ? 'x, ü' : '\N'), range(1, 1000));
        check($db->pgsqlCopyFromArray($table, $lines, "\t", '\\\\N', 'tenant, id, name'), true);
        check(count($db->pgsqlCopyToArray($table)), 1015);
        $read = $db->pgsqlCopyToArray("(SELECT tenant, id, name FROM $table WHERE tenant >= 30)", '|', 'nothing');
        sort($read, SORT_NATURAL);
        check(array_slice($read, 0, 2), ["30|7|x, ü\n", "30|14|nothing\n"]);
        $db->rollBack();
        check(state_of(fn () => $db->pgsqlCopyFromArray($table, ["1\tx"], "\t", '\\\\N', 'tenant, id')), '22P02');
        check(one($db, "SELECT count(*) FROM $table"), 15);
    }
    $c = pg();
    foreach (TABLES as $table) {
        pg_query($c, 'BEGIN');
        pg_query($c, "COPY $table (tenant, id, name) FROM STDIN (FORMAT csv)");
        for ($i = 0; $i < 100; $i++) {
            pg_put_line($c, 30 + $i % 7 . ",$i,\"x, $i\"\n");
        }
        pg_end_copy($c);
        check(count(pg_copy_to($c, "(SELECT id FROM $table WHERE tenant >= 30)")), 100);
        check(count(pg_copy_to($c, $table)), 115);
        pg_query($c, 'ROLLBACK');
    }
}

function cancels(): void
{
    $c = pg();
    $db = connect();
    foreach (TABLES as $table) {
        foreach (["SELECT pg_sleep(60) FROM $table WHERE tenant = 1", "SELECT max(pg_sleep(60)::text) FROM $table"] as $sql) {
            // It throws the answer away; that the statement has failed shows in its block.
            pg_query($c, 'BEGIN');
            pg_send_query($c, $sql);
            usleep(300_000);
            check(pg_cancel_query($c), true);
            check(pg_transaction_status($c), PGSQL_TRANSACTION_INERROR);
            pg_query($c, 'ROLLBACK');
            check(pg_fetch_result(pg_query($c, 'SELECT 1'), 0, 0), '1');
            // PDO itself has no call for it.
            $db->exec("SET statement_timeout = '200ms'");
            check(state_of(fn () => $db->query($sql)), '57014');
            $db->exec('RESET statement_timeout');
        }
    }
}

function errors_with_their_fields(): void
{
    $c = pg();
    foreach (WAYS as $way) {
        $db = connect($way);
        foreach (TABLES as $table) {
            check(state_of(fn () => rows($db, "INSERT INTO $table (tenant, id) VALUES (?, ?)", [1, 1])), '23505');
            check(state_of(fn () => rows($db, "INSERT INTO $table (tenant, id, name) VALUES (?, 500, ?)", [1, ''])), '23514');
            check(state_of(fn () => rows($db, "INSERT INTO $table (tenant, id) VALUES (?, ?)", [1, null])), '23502');
            check(state_of(fn () => rows($db, "SELECT nothing FROM $table WHERE tenant = ?", [1])), '42703');
            check(state_of(fn () => rows($db, "SELECT id / (id - ?) FROM $table WHERE tenant = ?", [1, 1])), '22012');
            check(state_of(fn () => rows($db, "SELECT id FROM $table WHERE tenant = ?", ['x'])), '22P02');
        }
        check(state_of(fn () => rows($db, 'SELECT * FROM nowhere')), '42P01');
        check(state_of(fn () => rows($db, 'SELEC')), '42601');
        check(one($db, 'SELECT 1'), 1);
    }
    foreach (TABLES as $table) {
        pg_send_query_params($c, "INSERT INTO $table (tenant, id) VALUES ($1, $2)", [1, 1]);
        $twice = pg_get_result($c);
        $fields = [PGSQL_DIAG_SQLSTATE, PGSQL_DIAG_SCHEMA_NAME, PGSQL_DIAG_TABLE_NAME, PGSQL_DIAG_CONSTRAINT_NAME, PGSQL_DIAG_MESSAGE_DETAIL];
        check(array_map(fn ($field) => pg_result_error_field($twice, $field), $fields),
            ['23505', 'use_pdo', $table, "{$table}_pkey", 'Key (tenant, id)=(1, 1) already exists.']);
        check(pg_get_result($c), false);
    }
}

function cursors_of_the_server(): void
{
    $db = connect([PDO::ATTR_EMULATE_PREPARES => false]);
    foreach (TABLES as $table) {
        foreach (["tenant = 3", "tenant >= 3"] as $filter) {
            $db->beginTransaction();
            $cursor = $db->prepare("SELECT id FROM $table WHERE $filter ORDER BY id", [PDO::ATTR_CURSOR => PDO::CURSOR_SCROLL]);
            $cursor->execute();
            check($cursor->fetch(), [0]);
            check($cursor->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_LAST), [4]);
            check($cursor->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_PRIOR), [3]);
            check($cursor->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_ABS, 2), [1]);
            $cursor->closeCursor();
            $db->commit();
        }
    }
}

/** The extension looks up the table's columns for these. */
function rows_as_arrays(): void
{
    $c = pg();
    foreach (TABLES as $table) {
        $table = "use_pdo.$table";
        $meta = pg_meta_data($c, $table);
        check([$meta['tenant']['type'], $meta['doc']['type'], $meta['id']['not null']], ['int4', 'jsonb', true]);
        $row = ['tenant' => 60, 'id' => 1, 'name' => "it's", 'day' => '2024-02-29'];
        pg_insert($c, $table, $row);
        check(pg_update($c, $table, ['name' => 'other'], ['tenant' => 60, 'id' => 1]), true);
        $read = pg_select($c, $table, ['tenant' => 60]);
        check([$read[0]['name'], $read[0]['day']], ['other', '2024-02-29']);
        check(pg_delete($c, $table, ['tenant' => 60]), true);
        check(pg_fetch_result(pg_query($c, "SELECT count(*) FROM $table"), 0, 0), '15');
    }
}

$failed = 0;
foreach (['logs_in', 'types', 'prepared_statements', 'transactions', 'copies', 'cancels', 'errors_with_their_fields',
    'cursors_of_the_server', 'rows_as_arrays'] as $subject) {
    try {
        $subject();
        echo "ok $subject\n";
    } catch (Throwable $error) {
        $failed = 1;
        echo "FAILED $subject: $error\n";
    }
}
exit($failed);
