"""``python -m tests.docs``: writes the generated parts of the pages."""

from tests.docs.pages import pages, with_generated_parts

if __name__ == "__main__":
    for page in pages():
        page.write_text(with_generated_parts(page))
