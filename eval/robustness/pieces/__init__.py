"""Does a long dialogue hold together where its pieces meet?"""
