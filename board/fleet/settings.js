// Node-RED of a fleet's collector: start it with `node-red --settings settings.js collect.json`.
module.exports = {
    // A broker that was restarted is asked every second; 15 are the default.
    mqttReconnectTime: 1000,
    // The flow's function node brings PostgreSQL's client, `pg`.
    functionExternalModules: true,
    uiHost: "127.0.0.1",
    uiPort: process.env.PORT || 1880,
};
