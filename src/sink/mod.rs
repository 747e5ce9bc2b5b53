//! Exits for events: serial, MQTT, standard output. One file per kind.
