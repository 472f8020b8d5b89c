// Takes payloads by POST and publishes them to every WebSocket client, by Bun's own topics (uWebSockets).
const [port, topic] = process.argv.slice(2);

Bun.serve({
  hostname: "127.0.0.1",
  port: Number(port),
  async fetch(request, server) {
    if (request.method === "POST") {
      server.publish(topic, await request.text());
      return new Response(null, { status: 204 });
    }
    if (server.upgrade(request)) return undefined;
    return new Response("a WebSocket is expected", { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    idleTimeout: 0,
    sendPings: false,
    open(client) {
      client.subscribe(topic);
    },
    message() {},
  },
});
