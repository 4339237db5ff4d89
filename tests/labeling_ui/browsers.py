"""What the tests of the app share: addresses, passwords, headers, and two small Gradio pages."""

import gradio as gr

HERE = "http://localhost:7860"
GOOD = "correct horse battery"
PAGE = {"accept": "text/html", "sec-fetch-dest": "document"}
SCRIPT = {"accept": "*/*", "sec-fetch-dest": "empty"}
SECRET = "a lead's secret"


def label_page() -> gr.Blocks:
    """Make a page that says whom it is shown to."""

    def tell(request: gr.Request) -> str:
        return str(request.username)

    with gr.Blocks() as page:
        who = gr.Textbox(label="who")
        page.load(tell, None, who, api_name="who")
    return page


def lab_page() -> gr.Blocks:
    """Make a page with something only leads may read, and a handler that only they may call."""
    with gr.Blocks() as page:
        secret = gr.Textbox(SECRET, label="secret")
        page.load(lambda: SECRET, None, secret, api_name="tell")
    return page


def broken_page() -> gr.Blocks:
    """Make a page whose handler fails."""

    def fail() -> str:
        raise ValueError("private")

    with gr.Blocks() as page:
        page.load(fail, None, gr.Textbox(), api_name="fail")
    return page
