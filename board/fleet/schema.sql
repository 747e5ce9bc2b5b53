-- What a fleet says, in PostgreSQL 13 or newer.
--
-- A collector inserts topic and payload into `inbox`, whatever it is (Node-RED here, Telegraf, Vector, a rule of EMQX); nothing stays there.
-- An event is named for ever by device, boot and seq: what QoS 1 or a restart brings twice is counted and stored once.
-- TimescaleDB: SELECT create_hypertable('event', 'at') before the first row; the key holds the time for that.

CREATE TABLE event (
    device     text        NOT NULL,
    boot       text        NOT NULL,
    seq        bigint      NOT NULL,
    -- The device's wall clock; its uptime from 1970 on where it has none.
    at         timestamptz NOT NULL,
    received   timestamptz NOT NULL DEFAULT clock_timestamp(),
    event      text        NOT NULL,
    episode    bigint      NOT NULL,
    label      text,
    cause      text,
    confidence real        NOT NULL,
    lasted_ms  bigint,
    PRIMARY KEY (device, boot, seq, at)
);
CREATE INDEX event_at ON event (at);

-- The latest of each device.
CREATE TABLE device (
    device   text PRIMARY KEY,
    online   boolean,
    software text,
    bundle   text,
    purpose  text,
    windows  bigint,
    late     bigint,
    dropped  bigint,
    muted    boolean,
    video    text,
    audio    text,
    heard    timestamptz NOT NULL DEFAULT clock_timestamp(),
    twice    bigint NOT NULL DEFAULT 0
);

-- What could not be read, and why.
CREATE TABLE refused (
    received timestamptz NOT NULL DEFAULT clock_timestamp(),
    topic    text NOT NULL,
    payload  text,
    why      text NOT NULL
);

CREATE TABLE inbox (topic text NOT NULL, payload text);

CREATE FUNCTION take() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    name text := split_part(NEW.topic, '/', 2);
    what text := substr(NEW.topic, length(split_part(NEW.topic, '/', 1)) + length(name) + 3);
    said jsonb;
BEGIN
    IF what = 'availability' THEN
        INSERT INTO device AS d (device, online) VALUES (name, NEW.payload = 'online')
        ON CONFLICT (device) DO UPDATE SET online = EXCLUDED.online, heard = EXCLUDED.heard;
        RETURN NULL;
    END IF;
    said := NEW.payload::jsonb;
    IF what = 'event' THEN
        INSERT INTO event (device, boot, seq, at, event, episode, label, cause, confidence, lasted_ms)
        VALUES (name, said->>'boot', (said->>'seq')::bigint,
                to_timestamp(coalesce((said->>'wall_ms')::float8, (said->>'at_ms')::float8) / 1000),
                said->>'event', (said->>'episode')::bigint, said->>'label', said->>'cause',
                (said->>'confidence')::real, (said->>'lasted_ms')::bigint)
        ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            INSERT INTO device AS d (device, twice) VALUES (name, 1)
            ON CONFLICT (device) DO UPDATE SET twice = d.twice + 1;
        END IF;
    ELSIF what = 'health' THEN
        INSERT INTO device AS d (device, windows, late, dropped, muted, video, audio)
        VALUES (name, (said->>'windows')::bigint, (said->>'late')::bigint, (said->>'dropped')::bigint,
                (said->>'muted')::boolean, said->>'video', said->>'audio')
        ON CONFLICT (device) DO UPDATE SET windows = EXCLUDED.windows, late = EXCLUDED.late, dropped = EXCLUDED.dropped,
            muted = EXCLUDED.muted, video = EXCLUDED.video, audio = EXCLUDED.audio, heard = EXCLUDED.heard;
    ELSIF what = 'hello' THEN
        INSERT INTO device AS d (device, software, bundle, purpose)
        VALUES (name, said->>'software', said->>'bundle', said->>'purpose')
        ON CONFLICT (device) DO UPDATE SET software = EXCLUDED.software, bundle = EXCLUDED.bundle,
            purpose = EXCLUDED.purpose, heard = EXCLUDED.heard;
    END IF;
    RETURN NULL;
EXCEPTION WHEN data_exception OR not_null_violation THEN
    INSERT INTO refused (topic, payload, why) VALUES (NEW.topic, left(NEW.payload, 1000), SQLERRM);
    RETURN NULL;
END $$;

CREATE TRIGGER take BEFORE INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION take();
