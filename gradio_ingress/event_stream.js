// Gradio's client does not notice that its event stream has ended too early, unless it waits for an event just then:
// it believes the stream open, and waits on it for ever. Here a stream that is cut, or has gone silent, ends with the
// messages that make the client notice, and a request without an answer fails. Events that were pending fail with them,
// on which Gradio loads the page again as soon as the service answers; the next event opens a new stream.
// The page is told how the connection is, as a "connection" event: "answers", "slow", "lost", or "refused" from an event
// that was not accepted until one is.
(() => {
  const SILENCE_MS = 45_000; // a heartbeat comes every 15 s
  const ANSWER_MS = 10_000; // within which an event is accepted, and then something comes of it
  const SLOW_MS = 2_000; // after which people are told that nothing has come yet
  const LOST = `data: {"msg":"broken_connection","message":"The connection was lost."}\n\ndata: {"msg":"close_stream"}\n\n`;
  const CLOSED = '"msg":"close_stream"'; // in a prompt its quotes are escaped
  const REFUSED = { status: 422, body: '{"detail":[]}' }; // on which Gradio gives the event up and shows nothing of its own
  const request = window.fetch;
  let expectEvent = () => {}; // of the stream that was opened last
  let heard = 0; // how many pieces all streams have brought
  let isRefused = false; // the last event; an open stream goes on without it

  window.fetch = async (resource, options) => {
    const path = new URL(resource.url ?? resource, location.href).pathname;
    if (path.endsWith("/queue/join")) return await joined(resource, options);
    if (path.endsWith("/app_id")) tell("lost"); // Gradio asks until there is an answer, and runs no events until then
    const response = await request(resource, options);
    const isStream = response.ok && path.endsWith("/queue/data");
    return isStream ? new Response(whole(response.body), response) : response;
  };

  async function joined(resource, options) {
    const patience = new AbortController();
    const before = heard;
    const timers = [setTimeout(tell, SLOW_MS, "slow"), setTimeout(() => patience.abort(), ANSWER_MS)];
    try {
      const signal = AbortSignal.any([patience.signal, options?.signal].filter(Boolean));
      const response = await request(resource, { ...options, signal });
      isRefused = !response.ok; // as while the service stops
      tell(isRefused ? "refused" : "answers");
      if (isRefused) return new Response(REFUSED.body, REFUSED); // the page says it
      if (heard === before) expectEvent(); // else its answer may have come already, and nothing more follow
      return response;
    } catch (error) {
      if (!options?.signal?.aborted) tell("lost");
      throw error;
    } finally {
      timers.forEach(clearTimeout);
    }
  }

  function tell(state) {
    dispatchEvent(new CustomEvent("connection", { detail: state }));
  }

  function whole(body) {
    const reader = body.getReader();
    const decoder = new TextDecoder();
    let end = ""; // of what was read
    let silence, slow; // timers
    const expect = (within_ms) => {
      clearTimeout(slow);
      clearTimeout(silence);
      silence = setTimeout(() => reader.cancel(), within_ms);
    };
    const expectAnswer = () => {
      expect(ANSWER_MS);
      slow = setTimeout(() => isRefused || tell("slow"), SLOW_MS);
    };
    expectEvent = expectAnswer;
    expect(SILENCE_MS);
    return new ReadableStream({
      async pull(controller) {
        const { done, value } = await reader.read().catch(() => ({ done: true })); // it was cut
        if (!done) {
          expect(SILENCE_MS);
          heard += 1;
          if (!isRefused) tell("answers");
          end = (end + decoder.decode(value, { stream: true })).slice(-200);
          controller.enqueue(value);
          return;
        }
        stop();
        if (!end.includes(CLOSED)) controller.enqueue(new TextEncoder().encode(LOST));
        controller.close();
      },
      cancel(reason) {
        stop();
        return reader.cancel(reason);
      },
    });

    function stop() {
      clearTimeout(slow);
      clearTimeout(silence);
      if (expectEvent === expectAnswer) expectEvent = () => {}; // else a later stream has taken over
    }
  }
})();
