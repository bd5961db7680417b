'use strict';

const express = require('express');

const port = 3000;
const app = express();

app.get('/', (request, response) => {
  response.send('<!doctype html><title>app-node</title><h1>Eu amo Docker!</h1>\n');
});

const server = app.listen(port, () => console.log(`listening on port ${port}`));

// As process 1 of a container nothing else handles the signals that stop it.
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => server.close(() => process.exit(0)));
}
