import { byId } from "./dom.js";
import { post } from "./api.js";

byId("join")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const fault = byId("fault");
  fault.hidden = true;
  try {
    await post("/api/join", { name: byId("name").value });
    location.assign("/");
  } catch (error) {
    fault.textContent = error instanceof TypeError ? "The server cannot be reached." : error.message;
    fault.hidden = false;
  }
});
