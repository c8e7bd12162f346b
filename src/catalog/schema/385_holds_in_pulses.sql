-- Not held all the time, but for a moment again and again: who writes to these groups is slowed down, whoever serves him. To a proxy that
-- does not know this it is one such moment.
ALTER TABLE tenantry.hold ADD COLUMN in_pulses boolean NOT NULL DEFAULT false;
