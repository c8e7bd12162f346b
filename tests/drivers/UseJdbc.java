// JDBC (pgjdbc) as applications use it. Arguments: a JDBC URL, `tenantry` or `postgres`, a JDBC URL with a password (may be
// empty). tables.sql has made the tables; matrix.py says more. Run: java -cp postgresql.jar UseJdbc.java ...

import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.*;
import java.time.*;
import java.util.*;
import org.postgresql.PGConnection;
import org.postgresql.util.PGInterval;
import org.postgresql.util.PGobject;
import org.postgresql.util.PSQLException;

public class UseJdbc {
    static String url, passwordUrl;
    static final String[] TABLES = {"orders", "products", "notes"};
    static final String COLUMNS =
        "tenant, id, name, amount, ratio, big, flag, day, clock, wall, at, span, key, doc, written, data, tags, numbers, feeling";
    static final OffsetDateTime AT = OffsetDateTime.parse("2024-12-31T23:30:00Z");
    static final UUID KEY = new UUID(0, 5);
    static final String DOC = "{\"a\": [1, null, \"ü\"], \"deep\": {\"b\": true}}";

    interface Work { void run() throws Exception; }

    static Connection connect(String options) throws SQLException {
        return DriverManager.getConnection(url + (url.contains("?") ? "&" : "?") + options);
    }

    static void check(Object got, Object want) {
        if (!Objects.equals(got, want)) throw new AssertionError("got " + got + ", want " + want);
    }

    static SQLException errorOf(Work work) throws Exception {
        try {
            work.run();
        } catch (SQLException error) {
            return error;
        }
        throw new AssertionError("this must fail");
    }

    static Object one(Connection c, String sql, Object... values) throws SQLException {
        try (PreparedStatement s = c.prepareStatement(sql)) {
            for (int i = 0; i < values.length; i++) s.setObject(i + 1, values[i]);
            try (ResultSet r = s.executeQuery()) {
                return r.next() ? r.getObject(1) : null;
            }
        }
    }

    static int run(Connection c, String sql) throws SQLException {
        try (Statement s = c.createStatement()) {
            s.execute(sql);
            return s.getUpdateCount();
        }
    }

    static List<Integer> ids(ResultSet r) throws SQLException {
        List<Integer> found = new ArrayList<>();
        while (r.next()) found.add(r.getInt(1));
        return found;
    }

    static PGobject other(String type, String value) throws SQLException {
        PGobject o = new PGobject();
        o.setType(type);
        o.setValue(value);
        return o;
    }

    static void logsIn() throws Exception {
        try (Connection c = connect("")) {
            check(c.isValid(5), true);
            check(c.getMetaData().getDatabaseProductName(), "PostgreSQL");
        }
        if (passwordUrl.isEmpty()) return;
        try (Connection c = DriverManager.getConnection(passwordUrl)) {
            check(one(c, "SELECT current_user::text"), "app");
            check(one(c, "SELECT count(*) FROM orders"), 0L);
        }
        check(errorOf(() -> DriverManager.getConnection(passwordUrl.replace("correct", "wrong"))).getSQLState(), "28P01");
    }

    static void types() throws Exception {
        // prepareThreshold=-1: binary results from the first execution on; 0: text and an unnamed statement always.
        for (String mode : new String[] {"prepareThreshold=-1", "prepareThreshold=0"}) {
            try (Connection c = connect(mode)) {
                for (String table : TABLES) {
                    run(c, "DELETE FROM " + table);
                    String places = String.join(", ", Collections.nCopies(19, "?"));
                    try (PreparedStatement s = c.prepareStatement("INSERT INTO " + table + " (" + COLUMNS + ") VALUES (" + places + ")")) {
                        for (int tenant = 1; tenant <= 3; tenant++) {
                            for (int id = 0; id < 5; id++) {
                                s.setInt(1, tenant);
                                s.setInt(2, id);
                                s.setString(3, "order " + id + " 'ü'");
                                s.setBigDecimal(4, new BigDecimal("12345.678"));
                                s.setDouble(5, 1.5);
                                s.setLong(6, 1L << 60);
                                s.setBoolean(7, id % 2 == 0);
                                s.setObject(8, LocalDate.of(2024, 2, 29));
                                s.setObject(9, LocalTime.parse("23:59:58.123456"));
                                s.setTimestamp(10, Timestamp.valueOf("2024-05-06 07:08:09.123"));
                                s.setObject(11, AT);
                                s.setObject(12, new PGInterval("3 days 04:00:00"));
                                s.setObject(13, KEY);
                                s.setObject(14, other("jsonb", DOC));
                                s.setObject(15, DOC, Types.OTHER);
                                s.setBytes(16, new byte[] {0, -1, (byte) id});
                                s.setArray(17, c.createArrayOf("text", new String[] {"a", null, "q\"ü,"}));
                                s.setArray(18, c.createArrayOf("int4", new Integer[] {1, null, -3}));
                                s.setObject(19, "bad", Types.OTHER);
                                check(s.executeUpdate(), 1);
                            }
                        }
                    }
                    for (int round = 0; round < 3; round++) {
                        try (PreparedStatement s = c.prepareStatement("SELECT " + COLUMNS + " FROM " + table + " WHERE tenant = ? AND id = ?")) {
                            s.setInt(1, 2);
                            s.setInt(2, 3);
                            ResultSet r = s.executeQuery();
                            check(r.next(), true);
                            check(List.of(r.getInt(1), r.getInt(2), r.getString(3)), List.of(2, 3, "order 3 'ü'"));
                            check(r.getBigDecimal(4), new BigDecimal("12345.678"));
                            check(r.getDouble(5), 1.5);
                            check(r.getLong(6), 1L << 60);
                            check(r.getBoolean(7), false);
                            check(r.getObject(8, LocalDate.class), LocalDate.of(2024, 2, 29));
                            check(r.getObject(9, LocalTime.class), LocalTime.parse("23:59:58.123456"));
                            check(r.getTimestamp(10), Timestamp.valueOf("2024-05-06 07:08:09.123"));
                            check(r.getObject(11, OffsetDateTime.class).toInstant(), AT.toInstant());
                            check(r.getObject(12), new PGInterval("3 days 04:00:00"));
                            check(r.getObject(13), KEY);
                            check(r.getString(14), DOC);
                            check(r.getString(15), DOC);
                            check(Arrays.toString(r.getBytes(16)), "[0, -1, 3]");
                            check(Arrays.asList((Object[]) r.getArray(17).getArray()), Arrays.asList("a", null, "q\"ü,"));
                            check(Arrays.asList((Object[]) r.getArray(18).getArray()), Arrays.asList(1, null, -3));
                            check(r.getString(19), "bad");
                            ResultSetMetaData m = r.getMetaData();
                            check(List.of(m.getColumnTypeName(4), m.getPrecision(4), m.getScale(4)), List.of("numeric", 12, 3));
                            check(m.getColumnTypeName(19).replaceAll(".*\\.|\"", ""), "mood");
                            check(m.unwrap(org.postgresql.PGResultSetMetaData.class).getBaseTableName(3), table);
                        }
                    }
                    check(one(c, "SELECT sum(amount) FROM " + table), new BigDecimal("185185.170"));
                    check(one(c, "SELECT count(*) FROM " + table + " WHERE tenant = ANY(?)", c.createArrayOf("int4", new Integer[] {1, 3})), 10L);
                    check(one(c, "SELECT count(*) FROM " + table + " WHERE doc ?? 'deep' AND tenant = ?", 2), 5L);
                }
            }
        }
    }

    static void preparedStatements() throws Exception {
        // The driver names a statement on the server at its fifth execution, and then asks for binary.
        try (Connection c = connect("prepareThreshold=5&preparedStatementCacheQueries=20")) {
            for (String table : TABLES) {
                try (PreparedStatement s = c.prepareStatement("SELECT id FROM " + table + " WHERE tenant = ? AND id = ?")) {
                    for (int i = 0; i < 30; i++) {
                        s.setInt(1, 1 + i % 3);
                        s.setInt(2, i % 5);
                        check(ids(s.executeQuery()), List.of(i % 5));
                    }
                }
                // More than its cache holds, so it closes statements on the server.
                for (int i = 0; i < 200; i++) {
                    for (int round = 0; round < (i % 50 == 0 ? 7 : 1); round++) {
                        check(one(c, "SELECT id + " + i + " FROM " + table + " WHERE tenant = ? AND id = 1", 1 + i % 3), i + 1);
                    }
                }
                for (int i = 0; i < 8; i++) check(one(c, "SELECT count(*) FROM " + table + " WHERE id = ?", 1), 3L);
            }
            try (PreparedStatement s = c.prepareStatement("SELECT id FROM orders WHERE tenant = ? ORDER BY id")) {
                ParameterMetaData m = s.getParameterMetaData();
                check(List.of(m.getParameterCount(), m.getParameterTypeName(1)), List.of(1, "int4"));
                check(s.getMetaData().getColumnName(1), "id");
            }
        }
    }

    static void batches() throws Exception {
        for (String mode : new String[] {"", "reWriteBatchedInserts=true", "preferQueryMode=simple"}) {
            try (Connection c = connect(mode)) {
                c.setAutoCommit(false);
                for (String table : TABLES) {
                    try (PreparedStatement s = c.prepareStatement("INSERT INTO " + table + " (tenant, id, name) VALUES (?, ?, ?)")) {
                        for (int i = 0; i < 500; i++) {
                            s.setInt(1, 10 + i % 4);
                            s.setInt(2, i);
                            s.setString(3, "n" + i);
                            s.addBatch();
                        }
                        check(s.executeBatch().length, 500);
                    }
                    check(one(c, "SELECT count(*) FROM " + table + " WHERE tenant >= 10"), 500L);
                    try (PreparedStatement s = c.prepareStatement("INSERT INTO " + table + " (tenant, id) VALUES (?, ?)",
                            Statement.RETURN_GENERATED_KEYS)) {
                        s.setInt(1, 10);
                        s.setInt(2, 9000);
                        s.executeUpdate();
                        ResultSet keys = s.getGeneratedKeys();
                        check(keys.next() && keys.getInt("id") == 9000, true);
                    }
                    try (Statement s = c.createStatement()) {
                        s.addBatch("UPDATE " + table + " SET name = 'm' WHERE tenant = 10");
                        s.addBatch("DELETE FROM " + table + " WHERE tenant > 10");
                        check(Arrays.toString(s.executeBatch()), "[126, 375]");
                    }
                    try (PreparedStatement s = c.prepareStatement("UPDATE " + table + " SET big = ? WHERE tenant < ?")) {
                        s.setLong(1, 7);
                        s.setInt(2, 4);
                        check(s.executeUpdate(), 15);
                    }
                    c.rollback();
                    try (PreparedStatement s = c.prepareStatement("INSERT INTO " + table + " (tenant, id) VALUES (?, ?)")) {
                        for (int i : new int[] {7, 8, 7}) {
                            s.setInt(1, 50);
                            s.setInt(2, i);
                            s.addBatch();
                        }
                        SQLException error = errorOf(s::executeBatch);
                        check(error instanceof BatchUpdateException, true);
                        check(error.getSQLState(), "23505");
                    }
                    c.rollback();
                    check(one(c, "SELECT count(*) FROM " + table), 15L);
                    c.commit();
                }
            }
        }
    }

    static void transactions() throws Exception {
        for (String mode : new String[] {"", "autosave=always"}) {
            try (Connection c = connect(mode)) {
                for (String table : TABLES) {
                    c.setAutoCommit(false);
                    c.setTransactionIsolation(Connection.TRANSACTION_REPEATABLE_READ);
                    run(c, "INSERT INTO " + table + " (tenant, id) VALUES (20, 1)");
                    Savepoint a = c.setSavepoint("a");
                    run(c, "INSERT INTO " + table + " (tenant, id) VALUES (21, 1)");
                    check(errorOf(() -> run(c, "INSERT INTO " + table + " (tenant, id) VALUES (21, 1)")).getSQLState(), "23505");
                    if (mode.isEmpty()) check(errorOf(() -> run(c, "SELECT 1")).getSQLState(), "25P02");
                    else check(one(c, "SELECT 1"), 1);
                    c.rollback(a);
                    run(c, "INSERT INTO " + table + " (tenant, id) VALUES (22, 1)");
                    c.releaseSavepoint(a);
                    check(one(c, "SHOW transaction_isolation"), "repeatable read");
                    c.commit();
                    c.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
                    try (Statement s = c.createStatement()) {
                        check(ids(s.executeQuery("SELECT tenant FROM " + table + " WHERE tenant >= 20 ORDER BY 1")), List.of(20, 22));
                    }
                    check(run(c, "DELETE FROM " + table + " WHERE tenant >= 20"), 2);
                    c.commit();
                    c.setReadOnly(true);
                    check(one(c, "SELECT count(*) FROM " + table + " WHERE tenant = ?", 1), 5L);
                    check(errorOf(() -> run(c, "UPDATE " + table + " SET flag = true WHERE tenant = 1")).getSQLState(), "25006");
                    c.rollback();
                    c.setReadOnly(false);
                    c.setAutoCommit(true);
                }
            }
        }
    }

    static void copies() throws Exception {
        try (Connection c = connect("")) {
            c.setAutoCommit(false);
            var copies = c.unwrap(PGConnection.class).getCopyAPI();
            for (String table : TABLES) {
                StringBuilder rows = new StringBuilder();
                for (int i = 0; i < 3000; i++) rows.append(30 + i % 7).append(',').append(i).append(",\"x, ").append(i).append("\"\n");
                check(copies.copyIn("COPY " + table + " (tenant, id, name) FROM STDIN (FORMAT csv)", new StringReader(rows.toString())), 3000L);
                StringWriter out = new StringWriter();
                check(copies.copyOut("COPY " + table + " (tenant, id) TO STDOUT", out), 3015L);
                check(out.toString().lines().count(), 3015L);
                check(copies.copyOut("COPY (SELECT id FROM " + table + " WHERE tenant = 31) TO STDOUT", new StringWriter()), 429L);
                c.rollback();
                SQLException bad = errorOf(() -> copies.copyIn("COPY " + table + " (tenant, id) FROM STDIN", new StringReader("1\t1\n")));
                check(bad.getSQLState(), "23505");
                c.rollback();
                check(one(c, "SELECT count(*) FROM " + table), 15L);
                c.commit();
            }
        }
    }

    static void cancels() throws Exception {
        try (Connection c = connect(""); Connection other = connect("")) {
            for (String table : TABLES) {
                for (String sql : new String[] {"SELECT pg_sleep(60) FROM " + table + " WHERE tenant = 1", "SELECT max(pg_sleep(60)::text) FROM " + table}) {
                    try (Statement s = c.createStatement()) {
                        Thread later = new Thread(() -> {
                            try {
                                Thread.sleep(300);
                                s.cancel();
                            } catch (Exception error) {
                                throw new RuntimeException(error);
                            }
                        });
                        later.start();
                        check(errorOf(() -> s.executeQuery(sql)).getSQLState(), "57014");
                        later.join();
                        check(one(other, "SELECT count(*) FROM " + table + " WHERE tenant = 1"), 5L);
                        check(one(c, "SELECT 1"), 1);
                    }
                }
            }
            try (Statement s = c.createStatement()) {
                s.setQueryTimeout(1);
                check(errorOf(() -> s.executeQuery("SELECT pg_sleep(60) FROM orders WHERE tenant = 1")).getSQLState(), "57014");
            }
            check(one(c, "SELECT 1"), 1);
        }
    }

    static void errorsWithTheirFields() throws Exception {
        try (Connection c = connect("")) {
            String schema = c.getSchema();
            for (String table : TABLES) {
                var twice = ((PSQLException) errorOf(() -> run(c, "INSERT INTO " + table + " (tenant, id) VALUES (1, 1)"))).getServerErrorMessage();
                check(List.of(twice.getSQLState(), twice.getSchema(), twice.getTable(), twice.getConstraint(), twice.getDetail()),
                    List.of("23505", schema, table, table + "_pkey", "Key (tenant, id)=(1, 1) already exists."));
                var empty = ((PSQLException) errorOf(() -> run(c, "INSERT INTO " + table + " (tenant, id) VALUES (1, NULL)"))).getServerErrorMessage();
                check(List.of(empty.getSQLState(), empty.getColumn(), empty.getTable()), List.of("23502", "id", table));
                var unknown = ((PSQLException) errorOf(() -> one(c, "SELECT nothing FROM " + table + " WHERE tenant = ?", 1))).getServerErrorMessage();
                check(List.of(unknown.getSQLState(), unknown.getPosition()), List.of("42703", 8));
            }
            try (Statement s = c.createStatement()) {
                s.execute("DO $$ BEGIN RAISE WARNING 'hello %', 1; END $$");
                check(s.getWarnings().getMessage(), "hello 1");
            }
        }
    }

    static void fetchSize() throws Exception {
        try (Connection c = connect("")) {
            c.setAutoCommit(false);
            for (String table : TABLES) {
                for (String filter : new String[] {"tenant = ?", "tenant >= ?"}) {
                    for (int round = 0; round < 7; round++) {
                        try (PreparedStatement s = c.prepareStatement("SELECT id FROM " + table + " WHERE " + filter + " ORDER BY tenant, id")) {
                            s.setFetchSize(2);
                            s.setInt(1, 3);
                            check(ids(s.executeQuery()), List.of(0, 1, 2, 3, 4));
                            s.setMaxRows(3);
                            check(ids(s.executeQuery()), List.of(0, 1, 2));
                        }
                    }
                    // Another statement between the portions of the first.
                    try (PreparedStatement s = c.prepareStatement("SELECT id FROM " + table + " WHERE " + filter + " ORDER BY tenant, id")) {
                        s.setFetchSize(1);
                        s.setInt(1, 3);
                        ResultSet r = s.executeQuery();
                        for (int i = 0; r.next(); i++) {
                            check(r.getInt(1), i);
                            check(one(c, "SELECT count(*) FROM " + table + " WHERE tenant = ?", 3), 5L);
                        }
                    }
                }
                c.commit();
            }
        }
    }

    static void introspection() throws Exception {
        try (Connection c = connect("")) {
            DatabaseMetaData m = c.getMetaData();
            for (String table : TABLES) {
                List<String> columns = new ArrayList<>(), keys = new ArrayList<>(), indexes = new ArrayList<>();
                for (ResultSet r = m.getColumns(null, c.getSchema(), table, "%"); r.next();) columns.add(r.getString("COLUMN_NAME"));
                check(String.join(", ", columns), COLUMNS);
                for (ResultSet r = m.getPrimaryKeys(null, c.getSchema(), table); r.next();) keys.add(r.getString("COLUMN_NAME"));
                Collections.sort(keys);
                check(keys, List.of("id", "tenant"));
                for (ResultSet r = m.getIndexInfo(null, c.getSchema(), table, false, false); r.next();) indexes.add(r.getString("INDEX_NAME"));
                check(indexes.contains(table + "_pkey"), true);
            }
            List<String> tables = new ArrayList<>();
            for (ResultSet r = m.getTables(null, c.getSchema(), "%", new String[] {"TABLE", "PARTITIONED TABLE"}); r.next();) tables.add(r.getString("TABLE_NAME"));
            check(tables.containsAll(List.of(TABLES)), true);
        }
    }

    static void updatableResults() throws Exception {
        try (Connection c = connect("")) {
            // The driver looks for the table by the OID that the answer's columns carry.
            for (String table : TABLES) {
                try (Statement s = c.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE)) {
                    ResultSet r = s.executeQuery("SELECT tenant, id, name FROM " + table + " WHERE tenant = 1 AND id = 2");
                    check(r.next(), true);
                    r.updateString("name", "by the result");
                    r.updateRow();
                }
                check(one(c, "SELECT name FROM " + table + " WHERE tenant = ? AND id = 2", 1), "by the result");
            }
        }
    }

    static int failed = 0;

    static void tell(String name, Work subject) {
        try {
            subject.run();
            System.out.println("ok " + name);
        } catch (Throwable error) {
            failed++;
            System.out.println("FAILED " + name);
            error.printStackTrace();
        }
    }

    public static void main(String[] arguments) {
        url = arguments[0];
        passwordUrl = arguments[2];
        tell("logsIn", UseJdbc::logsIn);
        tell("types", UseJdbc::types);
        tell("preparedStatements", UseJdbc::preparedStatements);
        tell("batches", UseJdbc::batches);
        tell("transactions", UseJdbc::transactions);
        tell("copies", UseJdbc::copies);
        tell("cancels", UseJdbc::cancels);
        tell("errorsWithTheirFields", UseJdbc::errorsWithTheirFields);
        tell("fetchSize", UseJdbc::fetchSize);
        tell("introspection", UseJdbc::introspection);
        tell("updatableResults", UseJdbc::updatableResults);
        System.exit(failed > 0 ? 1 : 0);
    }
}
