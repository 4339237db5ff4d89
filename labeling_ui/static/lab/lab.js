/** What the lead's page runs beside Gradio's own scripts. */

import { lasting } from "./queue.js";

window.fetch = lasting(window.fetch.bind(window));
