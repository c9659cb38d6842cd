"""Ask a running ``svp app`` over HTTP: the likeliest classes of an image, and a figure of its gates.

svp app runs/RUN --no-browser
python examples/app_client.py http://127.0.0.1:7860 photo.jpg [--adapter RUN] [--out gates.png]
"""

import argparse
import shutil

from gradio_client import Client, handle_file

parser = argparse.ArgumentParser(description="Ask a running `svp app` for the classes of an image.")
parser.add_argument("url")
parser.add_argument("image")
parser.add_argument("--adapter", help="name of the adapter; the first of the server if left out")
parser.add_argument("--out", help="write the figure of the gates to this PNG file")
options = parser.parse_args()

client = Client(options.url, verbose=False, analytics_enabled=False)
chosen = {"adapter": options.adapter} if options.adapter else {}

tuned, base = client.predict(image=handle_file(options.image), **chosen, api_name="/predict")
for entry in tuned["confidences"]:
    print(f"{entry['label']:20s} {entry['confidence']:6.1%}")
if base:  # a backbone of random weights has no classes of its own
    print(f"the plain backbone says {base['label']}")

if options.out:
    figure = client.predict(image=handle_file(options.image), **chosen, mean_of_layers=True, api_name="/gates")
    shutil.copyfile(figure, options.out)
