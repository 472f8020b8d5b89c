// Follows a topic from Node until it holds what the first argument's gateway publishes, then ends by itself.
import { connect } from "../../gateway/static/client.js";

const client = connect(process.argv[2], { pingMs: 50 });
const topic = client.subscribe("product:A");
client.on("change", () => {
  const item = topic.items.get("stock:A:L1");
  if (item) console.log(`${topic.state} ${item.available}`);
  if (item?.available === 4) client.close(); // nothing of it keeps the process alive
});
