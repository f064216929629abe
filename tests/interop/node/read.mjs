// Reads a stream for ever and prints each event as a line of JSON. Reconnecting is left to the package.
import { EventSource } from "eventsource";

const source = new EventSource(process.argv[2]);
for (const event of ["snapshot", "change", "status"]) {
  source.addEventListener(event, ({ lastEventId, data }) => {
    process.stdout.write(JSON.stringify({ event, id: lastEventId, data }) + "\n");
  });
}
source.onerror = ({ code, message }) => process.stderr.write(`${code ?? ""} ${message ?? "connection lost"}\n`);
