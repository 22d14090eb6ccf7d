// Gradio's client does not notice that its event stream has ended too early, unless it waits for an event just then:
// it believes the stream open, and waits on it for ever. Here a stream that is cut, or has gone silent, ends with the
// messages that make the client notice, and a request without an answer fails. Events that were pending fail with them,
// on which Gradio loads the page again as soon as the service answers; the next event opens a new stream.
(() => {
  const SILENCE_MS = 45_000; // a heartbeat comes every 15 s
  const ANSWER_MS = 10_000; // within which an event is accepted, and then something comes of it
  const LOST = `data: {"msg":"broken_connection","message":"The connection was lost."}\n\ndata: {"msg":"close_stream"}\n\n`;
  const CLOSED = '"msg":"close_stream"'; // in a prompt its quotes are escaped
  const request = window.fetch;
  let expectEvent = () => {}; // of the stream that was opened last

  window.fetch = async (resource, options) => {
    const path = new URL(resource.url ?? resource, location.href).pathname;
    if (path.endsWith("/queue/join")) return await joined(resource, options);
    const response = await request(resource, options);
    const isStream = response.ok && path.endsWith("/queue/data");
    return isStream ? new Response(whole(response.body), response) : response;
  };

  async function joined(resource, options) {
    const patience = new AbortController();
    const timer = setTimeout(() => patience.abort(), ANSWER_MS);
    try {
      const signal = AbortSignal.any([patience.signal, options?.signal].filter(Boolean));
      const response = await request(resource, { ...options, signal });
      if (response.ok) expectEvent();
      return response;
    } finally {
      clearTimeout(timer);
    }
  }

  function whole(body) {
    const reader = body.getReader();
    const decoder = new TextDecoder();
    let end = ""; // of what was read
    let timer;
    const expect = (within_ms) => {
      clearTimeout(timer);
      timer = setTimeout(() => reader.cancel(), within_ms);
    };
    const expectAnswer = () => expect(ANSWER_MS);
    expectEvent = expectAnswer;
    expect(SILENCE_MS);
    return new ReadableStream({
      async pull(controller) {
        const { done, value } = await reader.read().catch(() => ({ done: true })); // it was cut
        if (!done) {
          expect(SILENCE_MS);
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
      clearTimeout(timer);
      if (expectEvent === expectAnswer) expectEvent = () => {}; // else a later stream has taken over
    }
  }
})();
