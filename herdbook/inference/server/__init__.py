"""The server: one engine per model behind OpenAI's HTTP interface (§6).

`settings` what it may do · `serve` the process and its end · `app` the routes · `gate` who and what is let in ·
`bodies` what may be asked · `herd` the models · `asks` what is asked as tokens and sampling · `service` the thread that
owns the engines · `completions`, `chats` the two kinds of answers, `answers` what they share · `metrics` figures for
Prometheus · `errors` what goes wrong, in OpenAI's form.
"""
