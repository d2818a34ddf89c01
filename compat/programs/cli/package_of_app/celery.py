from app_lookup import app as the_app

app = the_app
