// Requests to the server. What could not be sent is sent again, under the same key, until the server has it.

export class Refused extends Error {
  constructor(status, body) {
    super(body.error ?? `the server answered ${status}`);
    this.status = status;
    this.reason = body.reason ?? "";
    this.faults = body.faults ?? [];
  }
}

export async function post(path, body = {}) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  let answer = {};
  try { answer = await response.json(); } catch { /* told by its status */ }
  if (!response.ok) throw new Refused(response.status, answer);
  return answer;
}

const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// Try until the server answers at all; `waiting` is told each time that it did not.
export async function surely(path, body, waiting) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await post(path, body);
    } catch (error) {
      const isPassing = !(error instanceof Refused) || error.status >= 500;
      if (!isPassing) throw error;
      waiting(error);
      await wait(Math.min(500 * 2 ** attempt, 5000));
    }
  }
}

export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID would need HTTPS off this machine
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
