// pgx and its pool as applications use them. Arguments: see matrix.py. Run: go run matrix.go use_pgx.go ...

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgtype"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

var ctx = context.Background()

// How pgx sends statements: prepared by a name, described and sent without a name, both at each call, and as simple queries.
var modes = []string{"", "statement_cache_mode=describe", "statement_cache_capacity=0", "prefer_simple_protocol=true"}

func connect(options string) *pgx.Conn {
	return the(pgx.Connect(ctx, dsn()+"&"+options))
}

// each runs work for every table on a connection of its own.
func each(options string, work func(c *pgx.Conn, table string)) {
	c := connect(options)
	defer c.Close(ctx)
	for _, table := range tables {
		work(c, table)
	}
}

type querier interface {
	Query(ctx context.Context, sql string, values ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, values ...any) pgx.Row
}

func one[T any](c querier, sql string, values ...any) (value T) {
	must(c.QueryRow(ctx, sql, values...).Scan(&value))
	return value
}

func column[T any](c querier, sql string, values ...any) (got []T) {
	rows := the(c.Query(ctx, sql, values...))
	defer rows.Close()
	for rows.Next() {
		var value T
		must(rows.Scan(&value))
		got = append(got, value)
	}
	must(rows.Err())
	return got
}

// errorOf is the server's error in err.
func errorOf(err error) *pgconn.PgError {
	var pgErr *pgconn.PgError
	checkThat(errors.As(err, &pgErr), "this must fail with an error of the server: %v", err)
	return pgErr
}

func execError(c interface {
	Exec(ctx context.Context, sql string, values ...any) (pgconn.CommandTag, error)
}, sql string, values ...any) *pgconn.PgError {
	_, err := c.Exec(ctx, sql, values...)
	return errorOf(err)
}

func logsIn() {
	c := connect("")
	check(one[int](c, "SELECT 1"), 1)
	must(c.Ping(ctx))
	check(c.PgConn().ParameterStatus("standard_conforming_strings"), "on")
	must(c.Close(ctx))
	if passwordDSN() == "" {
		return
	}
	c = the(pgx.Connect(ctx, passwordDSN()))
	check(one[string](c, "SELECT current_user::text"), "app")
	check(one[int](c, "SELECT count(*) FROM orders"), 0)
	must(c.Close(ctx))
	_, err := pgx.Connect(ctx, strings.Replace(passwordDSN(), "correct", "wrong", 1))
	check(errorOf(err).Code, "28P01")
}

// value makes one of pgtype's values, which know how they are sent as text and as binary.
func value[T any](from any) *T {
	v := new(T)
	must(any(v).(interface{ Set(any) error }).Set(from))
	return v
}

func row(tenant, id int) []any {
	return []any{tenant, id, fmt.Sprintf("order %d 'ü'", id), value[pgtype.Numeric]("12345.678"), 1.5, int64(1 << 60), id%2 == 0,
		value[pgtype.Date]("2024-02-29"), &pgtype.Time{Microseconds: 86398123456, Status: pgtype.Present}, value[pgtype.Timestamp](at.Add(123 * time.Millisecond)),
		at, value[pgtype.Interval](3*24*time.Hour + 5*time.Microsecond), value[pgtype.UUID]("00000000-0000-0000-0000-000000000005"),
		value[pgtype.JSONB](doc), value[pgtype.JSON](doc), []byte{0, 255, byte(id)},
		value[pgtype.TextArray]([]*string{text("a"), nil, text(`q"ü,`)}), value[pgtype.Int4Array]([]*int32{number(1), nil, number(-3)}), "bad"}
}

func text(s string) *string { return &s }
func number(n int32) *int32 { return &n }

const columns = "tenant, id, name, amount, ratio, big, flag, day, clock, wall, at, span, key, doc, written, data, tags, numbers, feeling"
const places = "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19"

func types() {
	for _, mode := range modes {
		each(mode, func(c *pgx.Conn, table string) {
			the(c.Exec(ctx, "DELETE FROM "+table))
			for tenant := 1; tenant <= 3; tenant++ {
				for id := 0; id < 5; id++ {
					done := the(c.Exec(ctx, "INSERT INTO "+table+" ("+columns+") VALUES ("+places+")", row(tenant, id)...))
					check(done.String(), "INSERT 0 1")
				}
			}
			for round := 0; round < 3; round++ {
				rows := the(c.Query(ctx, "SELECT "+columns+" FROM "+table+" WHERE tenant = $1 AND id = $2", 2, 3))
				check(rows.Next(), true)
				var tenant, id int
				var name, feeling string
				var amount, ratio float64
				var big int64
				var flag bool
				var day, wall, instant time.Time
				var clock pgtype.Time
				var span pgtype.Interval
				var key pgtype.UUID
				var parsed, written map[string]any
				var data []byte
				var tags []*string
				var numbers []*int32
				must(rows.Scan(&tenant, &id, &name, &amount, &ratio, &big, &flag, &day, &clock, &wall, &instant, &span, &key, &parsed,
					&written, &data, &tags, &numbers, &feeling))
				check([]any{tenant, id, name, amount, ratio, big, flag, feeling}, []any{2, 3, "order 3 'ü'", 12345.678, 1.5, int64(1 << 60), false, "bad"})
				check(day.Format("2006-01-02"), "2024-02-29")
				check(clock.Microseconds, int64(86398123456))
				check(wall.UTC(), at.Add(123*time.Millisecond))
				check(instant.UTC(), at)
				check(time.Duration(span.Days)*24*time.Hour+time.Duration(span.Microseconds)*time.Microsecond, 3*24*time.Hour+5*time.Microsecond)
				check(key.Bytes[15], byte(5))
				for _, got := range []map[string]any{parsed, written} {
					check(got, map[string]any{"a": []any{1.0, nil, "ü"}, "deep": map[string]any{"b": true}})
				}
				check(data, []byte{0, 255, 3})
				check([]any{*tags[0], tags[1], *tags[2]}, []any{"a", (*string)(nil), `q"ü,`})
				check([]any{*numbers[0], numbers[1], *numbers[2]}, []any{int32(1), (*int32)(nil), int32(-3)})
				check(rows.Next(), false)
				// OIDs are those that the catalog has, whoever answers.
				fields := rows.FieldDescriptions()
				oids := column[uint32](c, "SELECT oid FROM (VALUES ($1::text::regclass::oid), ('mood'::regtype::oid)) t (oid)", table)
				check([]any{fields[18].TableOID, fields[18].DataTypeOID}, []any{oids[0], oids[1]})
			}
			check(one[string](c, "SELECT sum(amount)::text FROM "+table), "185185.170")
			check(one[int](c, "SELECT count(*) FROM "+table+" WHERE tenant = ANY($1)", value[pgtype.Int4Array]([]int32{1, 3})), 10)
			check(one[int](c, "SELECT count(*) FROM "+table+" WHERE doc @> $1 AND tenant = $2", value[pgtype.JSONB](`{"deep": {"b": true}}`), 2), 5)
			check(column[time.Time](c, "SELECT max(at) FROM "+table+" GROUP BY tenant")[2].UTC(), at)
			the(c.Exec(ctx, "SET TIME ZONE 'Asia/Tokyo'"))
			check(one[string](c, "SELECT at::text FROM "+table+" WHERE tenant = 1 AND id = 1"), "2025-01-01 08:30:00+09")
			the(c.Exec(ctx, "RESET TIME ZONE"))
		})
	}
}

// An enum, its arrays and a composite are binary once pgx knows their OIDs, as applications register them.
func typesOfUsersOwn() {
	c := connect("")
	defer c.Close(ctx)
	the(c.Exec(ctx, `CREATE TYPE point_of_mood AS (x int, mood mood);
		CREATE TABLE felt (tenant int, id int, feeling mood, moods mood[], point point_of_mood, PRIMARY KEY (tenant, id))`))
	if throughTenantry() {
		the(c.Exec(ctx, "SELECT create_distributed_table('felt', 'tenant')"))
	}
	oid := func(name string) uint32 { return one[uint32](c, "SELECT $1::text::regtype::oid", name) }
	info := c.ConnInfo()
	enum := pgtype.NewEnumType("mood", []string{"good", "bad"})
	info.RegisterDataType(pgtype.DataType{Value: enum, Name: "mood", OID: oid("mood")})
	array := pgtype.NewArrayType("mood[]", oid("mood"), func() pgtype.ValueTranscoder { return pgtype.NewValue(enum).(pgtype.ValueTranscoder) })
	info.RegisterDataType(pgtype.DataType{Value: array, Name: "mood[]", OID: oid("mood[]")})
	fields := []pgtype.CompositeTypeField{{Name: "x", OID: pgtype.Int4OID}, {Name: "mood", OID: oid("mood")}}
	composite := the(pgtype.NewCompositeType("point_of_mood", fields, info))
	info.RegisterDataType(pgtype.DataType{Value: composite, Name: "point_of_mood", OID: oid("point_of_mood")})
	for tenant := 1; tenant <= 20; tenant++ {
		moods := pgtype.NewValue(array).(*pgtype.ArrayType)
		must(moods.Set([]string{"bad", "good"}))
		point := pgtype.NewValue(composite).(*pgtype.CompositeType)
		must(point.Set([]any{tenant, "bad"}))
		the(c.Exec(ctx, "INSERT INTO felt VALUES ($1, 1, $2, $3, $4)", tenant, "good", moods, point))
	}
	for _, filter := range []string{"tenant = 7", "tenant % 20 = 7"} {
		var feeling string
		var moods []string
		var x int
		var mood string
		must(c.QueryRow(ctx, "SELECT feeling, moods, point FROM felt WHERE "+filter).
			Scan(&feeling, &moods, pgtype.CompositeFields{&x, &mood}))
		check([]any{feeling, moods, x, mood}, []any{"good", []string{"bad", "good"}, 7, "bad"})
	}
}

func preparedStatements() {
	each("statement_cache_capacity=20", func(c *pgx.Conn, table string) {
		find := "SELECT id FROM " + table + " WHERE tenant = $1 AND id = $2"
		for i := 0; i < 30; i++ {
			check(one[int](c, find, 1+i%3, i%5), i%5)
		}
		// More than the cache holds, so statements are closed on the server.
		for i := 0; i < 100; i++ {
			check(one[int](c, fmt.Sprintf("SELECT id + %d FROM %s WHERE tenant = $1 AND id = 1", i, table), 1+i%3), i+1)
		}
		for i := 0; i < 5; i++ {
			check(one[int](c, "SELECT count(*) FROM "+table+" WHERE id = $1", i), 3)
		}
		prepared := the(c.Prepare(ctx, "find_"+table, find))
		check(prepared.ParamOIDs, []uint32{pgtype.Int4OID, pgtype.Int4OID})
		check(string(prepared.Fields[0].Name), "id")
		check(one[int](c, "find_"+table, 2, 3), 3)
		_, err := c.PgConn().Prepare(ctx, "find_"+table, "SELECT 1", nil)
		check(errorOf(err).Code, "42P05")
		must(c.Deallocate(ctx, "find_"+table))
		check(errorOf(c.PgConn().ExecPrepared(ctx, "find_"+table, [][]byte{[]byte("1"), []byte("1")}, nil, nil).Read().Err).Code, "26000")
		_, err = c.Prepare(ctx, "wrong", "SELECT nothing FROM "+table+" WHERE tenant = $1")
		check(errorOf(err).Code, "42703")
		// The cached statement's answer has another type: an error once, and not again.
		star := "SELECT * FROM " + table + " WHERE tenant = $1 AND id = 0"
		width := func() (int, error) {
			rows, err := c.Query(ctx, star, 1)
			if err != nil {
				return 0, err
			}
			rows.Close()
			return len(rows.FieldDescriptions()), rows.Err()
		}
		check(the(width()), 19)
		other := connect("")
		the(other.Exec(ctx, "ALTER TABLE "+table+" ADD COLUMN more int DEFAULT 5"))
		got, err := width()
		if err != nil {
			check(errorOf(err).Message, "cached plan must not change result type")
			got = the(width())
		}
		check(got, 20)
		the(other.Exec(ctx, "ALTER TABLE "+table+" DROP COLUMN more"))
		must(other.Close(ctx))
	})
}

func batches() {
	for _, mode := range modes {
		each(mode, func(c *pgx.Conn, table string) {
			count := func() int { return one[int](c, "SELECT count(*) FROM "+table) }
			reads := &pgx.Batch{}
			for i := 0; i < 100; i++ {
				reads.Queue("SELECT id FROM "+table+" WHERE tenant = $1 AND id = $2", 1+i%3, i%5)
			}
			reads.Queue("SELECT count(*) FROM "+table+" WHERE id = $1", 1)
			answers := c.SendBatch(ctx, reads)
			for i := 0; i < 100; i++ {
				var id int
				must(answers.QueryRow().Scan(&id))
				check(id, i%5)
			}
			var n int
			must(answers.QueryRow().Scan(&n))
			check(n, 3)
			must(answers.Close())
			// What is sent together is one transaction, of several tenants too.
			writes := &pgx.Batch{}
			for tenant := 10; tenant < 30; tenant++ {
				writes.Queue("INSERT INTO "+table+" (tenant, id, name) VALUES ($1, $2, $3)", tenant, 1, "b")
			}
			writes.Queue("UPDATE "+table+" SET name = $1 WHERE tenant >= $2", "c", 10)
			answers = c.SendBatch(ctx, writes)
			for tenant := 10; tenant < 30; tenant++ {
				check(the(answers.Exec()).RowsAffected(), int64(1))
			}
			check(the(answers.Exec()).String(), "UPDATE 20")
			must(answers.Close())
			check(count(), 35)
			writes.Queue("INSERT INTO "+table+" (tenant, id) VALUES ($1, $2)", 10, 1)
			check(errorOf(c.SendBatch(ctx, writes).Close()).Code, "23505")
			deletes := &pgx.Batch{}
			deletes.Queue("DELETE FROM "+table+" WHERE tenant >= $1", 10)
			deletes.Queue("SELECT 1 / (id - $2) FROM "+table+" WHERE tenant = $1", 1, 1)
			check(errorOf(c.SendBatch(ctx, deletes).Close()).Code, "22012")
			check(count(), 35)
			must(c.BeginFunc(ctx, func(tx pgx.Tx) error {
				deletes := &pgx.Batch{}
				for tenant := 10; tenant < 30; tenant++ {
					deletes.Queue("DELETE FROM "+table+" WHERE tenant = $1", tenant)
				}
				return tx.SendBatch(ctx, deletes).Close()
			}))
			check(count(), 15)
		})
	}
}

func transactions() {
	for _, mode := range modes {
		each(mode, func(c *pgx.Conn, table string) {
			insert := "INSERT INTO " + table + " (tenant, id) VALUES ($1, 1)"
			tx := the(c.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}))
			the(tx.Exec(ctx, insert, 20))
			nested := the(tx.Begin(ctx))
			the(nested.Exec(ctx, insert, 21))
			check(execError(nested, insert, 21).Code, "23505")
			check(execError(nested, "SELECT 1").Code, "25P02")
			must(nested.Rollback(ctx))
			must(tx.BeginFunc(ctx, func(nested pgx.Tx) error {
				_, err := nested.Exec(ctx, insert, 22)
				return err
			}))
			check(one[string](tx, "SHOW transaction_isolation"), "repeatable read")
			must(tx.Commit(ctx))
			check(column[int](c, "SELECT tenant FROM "+table+" WHERE tenant >= 20 ORDER BY 1"), []int{20, 22})
			failed := errors.New("rolled back")
			check(c.BeginFunc(ctx, func(tx pgx.Tx) error {
				the(tx.Exec(ctx, "DELETE FROM "+table))
				return failed
			}), failed)
			// A block that has failed commits nothing, and pgx tells of it.
			tx = the(c.Begin(ctx))
			execError(tx, "SELECT 1 / 0")
			check(tx.Commit(ctx), pgx.ErrTxCommitRollback)
			check(the(c.Exec(ctx, "DELETE FROM "+table+" WHERE tenant >= 20")).RowsAffected(), int64(2))
			must(c.BeginTxFunc(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly, DeferrableMode: pgx.Deferrable, IsoLevel: pgx.Serializable},
				func(tx pgx.Tx) error {
					check(one[int](tx, "SELECT count(*) FROM "+table+" WHERE tenant = $1", 1), 5)
					return nil
				}))
			tx = the(c.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly}))
			check(execError(tx, insert, 1).Code, "25006")
			must(tx.Rollback(ctx))
		})
	}
}

func copies() {
	each("", func(c *pgx.Conn, table string) {
		tx := the(c.Begin(ctx))
		made := func(n int) pgx.CopyFromSource {
			return pgx.CopyFromSlice(n, func(i int) ([]any, error) { return row(30+i%7, i), nil })
		}
		names := strings.Split(columns, ", ")
		// An enum cannot be copied as binary before pgx knows it.
		c.ConnInfo().RegisterDataType(pgtype.DataType{Value: pgtype.NewEnumType("mood", []string{"good", "bad"}), Name: "mood",
			OID: one[uint32](tx, "SELECT 'mood'::regtype::oid")})
		check(the(tx.CopyFrom(ctx, pgx.Identifier{table}, names, made(3000))), int64(3000))
		check(one[int](tx, "SELECT count(*) FROM "+table+" WHERE tenant = 31 AND feeling = 'bad' AND numbers[3] = -3"), 429)
		for _, format := range []string{"text", "csv", "binary"} {
			var out bytes.Buffer
			done := the(c.PgConn().CopyTo(ctx, &out, "COPY "+table+" TO STDOUT (FORMAT "+format+")"))
			check(done.RowsAffected(), int64(3015))
			the(tx.Exec(ctx, "DELETE FROM "+table))
			done = the(c.PgConn().CopyFrom(ctx, &out, "COPY "+table+" FROM STDIN (FORMAT "+format+")"))
			check(done.RowsAffected(), int64(3015))
		}
		must(tx.Rollback(ctx))
		_, err := c.CopyFrom(ctx, pgx.Identifier{table}, []string{"tenant", "id"}, pgx.CopyFromRows([][]any{{1, 1}}))
		check(errorOf(err).Code, "23505")
		// The source fails: CopyFail is sent.
		broken := pgx.CopyFromSlice(100, func(i int) ([]any, error) {
			if i == 50 {
				return nil, errors.New("no more")
			}
			return []any{60 + i, 1}, nil
		})
		_, err = c.CopyFrom(ctx, pgx.Identifier{table}, []string{"tenant", "id"}, broken)
		check(errorOf(err).Code, "57014")
		check(one[int](c, "SELECT count(*) FROM "+table), 15)
	})
}

func cancels() {
	each("", func(c *pgx.Conn, table string) {
		for _, sql := range []string{"SELECT pg_sleep(60) FROM " + table + " WHERE tenant = $1", "SELECT max(pg_sleep(60)::text) FROM " + table + " WHERE id = $1"} {
			go func() {
				time.Sleep(300 * time.Millisecond)
				c.PgConn().CancelRequest(ctx)
			}()
			check(execError(c, sql, 1).Code, "57014")
			check(one[int](c, "SELECT 1"), 1)
			// A context that ends closes the connection, behind a cancel request.
			hasty, end := context.WithTimeout(ctx, 300*time.Millisecond)
			other := connect("")
			_, err := other.Exec(hasty, sql+" AND 'hasty' <> ''", 1)
			end()
			checkThat(pgconn.Timeout(err), "this must end by its context: %v", err)
			<-other.PgConn().CleanupDone()
			gone := "SELECT count(*) = 0 FROM pg_stat_activity WHERE query LIKE '%hasty%' AND pid <> pg_backend_pid() AND state = 'active'"
			for !one[bool](c, gone) {
				time.Sleep(10 * time.Millisecond)
			}
		}
		tx := the(c.Begin(ctx))
		the(tx.Exec(ctx, "SET LOCAL statement_timeout = '200ms'"))
		check(execError(tx, "SELECT pg_sleep(60) FROM "+table+" WHERE tenant = 1").Code, "57014")
		must(tx.Rollback(ctx))
	})
}

func errorsWithTheirFields() {
	for _, mode := range modes {
		each(mode, func(c *pgx.Conn, table string) {
			twice := execError(c, "INSERT INTO "+table+" (tenant, id) VALUES ($1, 1)", 1)
			check([]string{twice.Code, twice.Severity, twice.SchemaName, twice.TableName, twice.ConstraintName, twice.Detail},
				[]string{"23505", "ERROR", one[string](c, "SELECT current_schema()::text"), table, table + "_pkey", "Key (tenant, id)=(1, 1) already exists."})
			empty := execError(c, "INSERT INTO "+table+" (tenant, id, name) VALUES (1, 500, '')")
			check([]string{empty.Code, empty.ConstraintName}, []string{"23514", "name_is_not_empty"})
			null := execError(c, "INSERT INTO "+table+" (tenant) VALUES ($1)", 1)
			check([]string{null.Code, null.ColumnName, null.TableName}, []string{"23502", "id", table})
			unknown := execError(c, "SELECT nothing FROM "+table+" WHERE tenant = $1", 1)
			check([]any{unknown.Code, unknown.Position}, []any{"42703", int32(8)})
			check(execError(c, "SELECT id FROM "+table+" WHERE tenant = 1 AND feeling = 'great'").Code, "22P02")
			check(execError(c, "SELEC 1").Code, "42601")
			check(one[int](c, "SELECT count(*) FROM "+table), 15)
		})
	}
}

func notifications() {
	config := the(pgx.ParseConfig(dsn()))
	var notices []string
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Message) }
	listener, c := the(pgx.ConnectConfig(ctx, config)), connect("")
	defer listener.Close(ctx)
	defer c.Close(ctx)
	the(listener.Exec(ctx, "LISTEN news_of_pgx"))
	for i := 0; i < 3; i++ {
		the(c.Exec(ctx, "SELECT pg_notify('news_of_pgx', $1)", fmt.Sprint(i)))
		soon, end := context.WithTimeout(ctx, 20*time.Second)
		news := the(listener.WaitForNotification(soon))
		end()
		check([]string{news.Channel, news.Payload}, []string{"news_of_pgx", fmt.Sprint(i)})
		check(one[int](listener, "SELECT count(*) FROM orders WHERE tenant = $1", 1), 5)
	}
	the(listener.Exec(ctx, "UNLISTEN *"))
	the(listener.Exec(ctx, "DO $$ BEGIN RAISE NOTICE 'hello %', 1; END $$"))
	check(notices, []string{"hello 1"})
}

// Many goroutines on a pool, while the shard of one of their tenants goes to the other server and back.
func aPool() {
	config := the(pgxpool.ParseConfig(dsn() + "&pool_max_conns=5&pool_min_conns=2&pool_health_check_period=100ms"))
	config.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Prepare(ctx, "count", "SELECT count(*) FROM orders WHERE tenant = $1")
		return err
	}
	config.BeforeAcquire = func(ctx context.Context, c *pgx.Conn) bool { return c.Ping(ctx) == nil }
	pool := the(pgxpool.ConnectConfig(ctx, config))
	defer pool.Close()
	check(execError(pool, "SELECT 1 / 0").Code, "22012")
	the(pool.Exec(ctx, "UPDATE orders SET big = 0"))
	moved := make(chan struct{})
	var written [4]int
	var workers sync.WaitGroup
	failed := make(chan any, 8)
	for w := range written {
		workers.Add(1)
		go func(w int) {
			defer workers.Done()
			defer func() {
				if said := recover(); said != nil {
					failed <- said
				}
			}()
			for done := false; !done; {
				select {
				case <-moved:
					done = true
				default:
				}
				tenant := 1 + w%3
				check(one[int](pool, "count", tenant), 5)
				must(pool.BeginFunc(ctx, func(tx pgx.Tx) error {
					the(tx.Exec(ctx, "UPDATE orders SET big = big + 1 WHERE tenant = $1 AND id = $2", tenant, w))
					_, err := tx.Exec(ctx, "UPDATE orders SET big = big + 1 WHERE tenant = $1 AND id = $2", tenant, 4)
					return err
				}))
				answers := pool.SendBatch(ctx, countsOf(1, 2, 3))
				must(answers.Close())
				written[w] += 2
			}
		}(w)
	}
	moveAndMoveBack()
	close(moved)
	workers.Wait()
	select {
	case said := <-failed:
		panic(said)
	default:
	}
	check(one[int](pool, "SELECT sum(big)::bigint FROM orders"), written[0]+written[1]+written[2]+written[3])
}

func countsOf(tenants ...int) *pgx.Batch {
	batch := &pgx.Batch{}
	for _, tenant := range tenants {
		batch.Queue("SELECT count(*) FROM orders WHERE tenant = $1", tenant)
	}
	return batch
}

func moveAndMoveBack() {
	if !throughTenantry() {
		return
	}
	c := connect("")
	defer c.Close(ctx)
	shard := one[int](c, "SELECT get_shard_id_for_distribution_column('orders', 1)")
	other := `SELECT nodename, nodeport, node_name, node_port FROM citus_shards, citus_get_active_worker_nodes()
		WHERE shardid = $1 AND (node_name, node_port) <> (nodename, nodeport) ORDER BY node_port LIMIT 1`
	for move := 0; move < 2; move++ {
		var from, to string
		var fromPort, toPort int
		must(c.QueryRow(ctx, other, shard).Scan(&from, &fromPort, &to, &toPort))
		the(c.Exec(ctx, "SELECT citus_move_shard_placement($1, $2, $3, $4, $5)", shard, from, fromPort, to, toPort))
	}
}

func main() {
	run(subject{"logs in", logsIn}, subject{"types", types}, subject{"types of users' own", typesOfUsersOwn},
		subject{"prepared statements", preparedStatements}, subject{"batches", batches}, subject{"transactions", transactions},
		subject{"copies", copies}, subject{"cancels", cancels}, subject{"errors with their fields", errorsWithTheirFields},
		subject{"notifications", notifications}, subject{"a pool", aPool})
}
