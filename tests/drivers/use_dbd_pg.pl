# Perl's DBD::Pg (libpq). Arguments: see matrix.py.

use strict;
use warnings;
use utf8;
use DBI;
use DBD::Pg qw(:pg_types);
use JSON::PP;

binmode STDOUT, ':utf8';
binmode STDERR, ':utf8';
my ($dsn, $behind, $password_dsn) = @ARGV;
my @tables = qw(orders products notes);
my $json = JSON::PP->new->canonical;

sub check {
    my ($got, $want) = map { $json->encode([$_]) } @_;
    die "got $got, want $want\n" if $got ne $want;
}

# A URI's parts as DBI wants them; the URI itself is no DSN of DBD::Pg.
sub connect_to {
    my ($uri, %options) = @_;
    my ($user, $password, $host, $port, $name, $schema) =
        $uri =~ m{^postgresql://([^:@]+)(?::([^@]*))?@([^:]+):(\d+)/([^?]+)\?options=-csearch_path%3D(\w+)$} or die "unknown: $uri\n";
    $password =~ s/%20/ / if $password;
    return DBI->connect("dbi:Pg:dbname=$name;host=$host;port=$port;options=-csearch_path=$schema", $user, $password // '',
        { RaiseError => 1, PrintError => 0, AutoCommit => 1, %options });
}

sub state_of {
    my ($db, $run) = @_;
    eval { $run->(); 1 } and die "this must fail\n";
    return $db->state;
}

sub one { return (shift->selectrow_array(@_))[0] }

my %subjects = (
    a_logs_in => sub {
        my $db = connect_to($dsn);
        check($db->ping > 0, 1 == 1);
        return unless $password_dsn;
        check(one(connect_to($password_dsn), 'SELECT count(*) FROM orders'), 0);
        my $wrong = $password_dsn =~ s/correct/wrong/r;
        eval { connect_to($wrong); 1 } and die "this must fail\n";
        check(!!($@ =~ /password authentication failed/), !!1);
    },
    b_types => sub {
        my $db = connect_to($dsn);
        for my $table (@tables) {
            my $insert = $db->prepare("INSERT INTO $table (tenant, id, name, amount, day, at, doc, data, numbers, feeling) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
            $insert->bind_param(8, undef, { pg_type => PG_BYTEA });
            for my $tenant (1 .. 3) {
                $insert->execute($tenant, $_, "order $_ 'ü'", '12345.678', '2024-02-29', '2024-12-31 23:30+00', '{"a": [1, null, "ü"]}', "\0\xff", [1, undef, -3], 'bad')
                    for 0 .. 4;
            }
            my $row = $db->selectrow_hashref("SELECT * FROM $table WHERE tenant = ? AND id = ?", {}, 2, 3);
            check([@$row{qw(name amount day feeling)}], ["order 3 'ü'", '12345.678', '2024-02-29', 'bad']);
            check($row->{numbers}, [1, undef, -3]);
            check($row->{data} eq "\0\xff", 1 == 1);
            check($json->decode($row->{doc}), { a => [1, undef, 'ü'] });
            check(one($db, "SELECT at AT TIME ZONE 'Asia/Tokyo' FROM $table WHERE tenant = 2 AND id = 3"), '2025-01-01 08:30:00');
            check(one($db, "SELECT sum(amount) FROM $table"), '185185.170');
            check(one($db, "SELECT count(*) FROM $table WHERE tenant = ANY (?)", {}, [1, 3]), 10);
        }
    },
    c_prepared_statements => sub {
        my $db = connect_to($dsn);
        for my $table (@tables) {
            # The driver prepares on the server at the second execution.
            my $find = $db->prepare("SELECT id FROM $table WHERE tenant = ? AND id = ?");
            for my $i (0 .. 19) {
                $find->execute(1 + $i % 3, $i % 5);
                check($find->fetchall_arrayref, [[$i % 5]]);
            }
            my $many = $db->prepare("SELECT count(*) FROM $table WHERE id = ?");
            for (1 .. 4) { $many->execute($_); check($many->fetchrow_array, 3); $many->finish }
        }
    },
    d_transactions => sub {
        my $db = connect_to($dsn, AutoCommit => 0);
        for my $table (@tables) {
            $db->do("INSERT INTO $table (tenant, id) VALUES (20, 1)");
            $db->pg_savepoint('a');
            check(state_of($db, sub { $db->do("INSERT INTO $table (tenant, id) VALUES (1, 1)") }), '23505');
            $db->pg_rollback_to('a');
            $db->do("INSERT INTO $table (tenant, id) VALUES (22, 1)");
            $db->commit;
            check($db->selectcol_arrayref("SELECT tenant FROM $table WHERE tenant >= 20 ORDER BY 1"), [20, 22]);
            check($db->do("DELETE FROM $table WHERE tenant > 0"), 17);
            $db->rollback;
            check($db->do("DELETE FROM $table WHERE tenant >= 20"), 2);
            $db->commit;
        }
    },
    e_copies => sub {
        my $db = connect_to($dsn, AutoCommit => 0);
        for my $table (@tables) {
            $db->do("COPY $table (tenant, id, name) FROM STDIN (FORMAT csv)");
            $db->pg_putcopydata(30 + $_ % 7 . ",$_,\"x, $_\"\n") for 1 .. 1000;
            $db->pg_putcopyend;
            $db->do("COPY $table TO STDOUT");
            my ($line, $lines) = ('', 0);
            $lines++ while $db->pg_getcopydata($line) >= 0;
            check($lines, 1015);
            $db->rollback;
            $db->do("COPY $table (tenant, id) FROM STDIN");
            $db->pg_putcopydata("1\tx\n");
            check(state_of($db, sub { $db->pg_putcopyend }), '22P02');
            $db->rollback;
            check(one($db, "SELECT count(*) FROM $table"), 15);
            $db->commit;
        }
    },
    f_cancels => sub {
        my $db = connect_to($dsn);
        for my $table (@tables) {
            for my $sql ("SELECT pg_sleep(60) FROM $table WHERE tenant = 1", "SELECT max(pg_sleep(60)::text) FROM $table") {
                my $sleeps = $db->prepare($sql, { pg_async => 1 });
                $sleeps->execute;
                select undef, undef, undef, 0.3;
                $db->pg_cancel;
                check($db->state, '57014');
                check(one($db, 'SELECT 1'), 1);
            }
        }
    },
    g_errors => sub {
        my $db = connect_to($dsn);
        for my $table (@tables) {
            check(state_of($db, sub { $db->do("INSERT INTO $table (tenant, id) VALUES (?, ?)", {}, 1, 1) }), '23505');
            check([$db->pg_error_field('table'), $db->pg_error_field('constraint')], [$table, "${table}_pkey"]);
            check(state_of($db, sub { $db->do("SELECT nothing FROM $table WHERE tenant = 1") }), '42703');
            check(state_of($db, sub { $db->do("INSERT INTO $table (tenant, id, name) VALUES (1, 500, '')") }), '23514');
        }
        check(state_of($db, sub { $db->do('SELEC') }), '42601');
        check([map { $_->[3] } @{ $db->primary_key_info(undef, one($db, 'SELECT current_schema()'), 'orders')->fetchall_arrayref }], ['tenant', 'id']);
    },
);

my $failed = 0;
for my $subject (sort keys %subjects) {
    if (eval { $subjects{$subject}->(); 1 }) {
        print "ok $subject\n";
    } else {
        $failed = 1;
        print "FAILED $subject: $@\n";
    }
}
exit $failed;
